"""The Python environments of a node: one for each thing asked for, built once, shared."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nsml.core.ports import Clock
from nsml.executor.installer import Base, Installer, examine
from nsml.executor.requirements import Wanted, wanted
from nsml.executor.shelf import Facts, Shelf

log = logging.getLogger(__name__)

RETRY = 300.0  # seconds after which an environment that lacks something is tried again
READ = ("setup.py", "requirements.txt", "nsml_package.txt")
LARGEST = 1 << 20  # bytes of such a file

Say = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a session runs with: the interpreter; what could not be installed, and that build's last lines."""

    python: str
    name: str = ""
    failed: tuple[str, ...] = ()
    tail: str = ""


class Environments:
    """Builds and keeps environments; each stands in front of the *python* that sessions use anyway."""

    def __init__(self, python: str, shelf: Shelf, clock: Clock) -> None:
        self._python = python
        self._shelf = shelf
        self._clock = clock
        self._base: Base | None = None
        self._examining = asyncio.Lock()
        self._listening: dict[str, list[Say]] = defaultdict(list)

    async def hold(self, want: Wanted, app: Path, asked: str, say: Say) -> Environment:
        """The environment that *want* describes, until `release`; *say* hears the output of its build.

        *asked* is the name that the rest of the platform knows it by.
        """
        base = await self._examined()
        digest = want.digest(base.identity)
        self._listening[digest].append(say)

        async def build(path: Path) -> Facts:
            installer = Installer(base, path, self._listening[digest])
            built = await installer.build(want, app)
            return {**built, "asked": asked, "at": self._clock.now()}

        name = f"environments/{digest}"
        try:
            path = await self._shelf.hold(name, build, self._is_fresh)
        finally:
            self._listening[digest].remove(say)
            if not self._listening[digest]:
                del self._listening[digest]
        facts = self._shelf.facts(name) or {}
        return Environment(
            python=str(path / "bin" / "python"),
            name=name,
            failed=tuple(facts.get("failed", ())),
            tail=str(facts.get("tail", "")),
        )

    def hold_again(self, name: str) -> Environment:
        """One that is in use since before a restart."""
        self._shelf.keep(name)
        return Environment(python=str(self._shelf.path(name) / "bin" / "python"), name=name)

    def has(self, asked: str) -> bool:
        """Whether what the rest of the platform calls *asked* is built."""
        return asked in self.names()

    def names(self) -> list[str]:
        """What is built, by the names of the rest of the platform."""
        kept = (self._shelf.facts(f"environments/{name}") for name in self._shelf.names("environments"))
        return [str(facts["asked"]) for facts in kept if facts and facts.get("asked")]

    def release(self, environment: Environment) -> None:
        if environment.name:
            self._shelf.release(environment.name)

    def _is_fresh(self, facts: Facts) -> bool:
        return not facts["failed"] or self._clock.now() - facts["at"] < RETRY

    async def _examined(self) -> Base:
        async with self._examining:
            if self._base is None:
                self._base = await examine(self._python)
            return self._base


def read_wanted(app: Path, image: str) -> Wanted:
    """What the code in *app* asks for."""
    texts: dict[str, str] = {}
    for name in READ:
        if (app / name).is_file():
            texts |= _texts(app, name)
    return wanted(texts, image) if texts or image else Wanted()


def _texts(app: Path, name: str) -> Mapping[str, str]:
    """The text of *name*, and of the other requirements files beside it if it may include them."""
    texts = {}
    names = [name]
    if name == "requirements.txt" and b"-r" in _bytes(app / name):
        names += sorted(path.relative_to(app).as_posix() for path in app.rglob("*.txt"))[:100]
    for found in names:
        with suppress(OSError):
            texts[found] = os.fsdecode(_bytes(app / found))
    return texts


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST)
