"""Folders that sessions of a node share: made once, kept while used, given up when space is needed."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from nsml.executor import files
from nsml.executor.process import remove

Facts = dict[str, Any]


class Shelf:
    """Folders `KIND/NAME` below *root*, each finished once `KIND/NAME.json` lies beside it with its facts
    (`bytes` among them). Together they take at most *limit* bytes; those unused for longest go first, and
    never one that is held."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._held: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._facts: dict[str, Facts] = {}
        self._used: dict[str, float] = {}

    async def look(self) -> None:
        """Find what a former process left."""
        for name, facts, used in await asyncio.to_thread(self._find):
            self._facts[name], self._used[name] = facts, used

    def _find(self) -> list[tuple[str, Facts, float]]:
        found = []
        for path in self._root.glob("*/*.json"):
            with suppress(ValueError, FileNotFoundError):
                name = f"{path.parent.name}/{path.stem}"
                found.append((name, orjson.loads(path.read_bytes()), path.stat().st_mtime))
        return found

    def names(self, kind: str) -> list[str]:
        """What is there of *kind*."""
        return [name.partition("/")[2] for name in self._facts if name.startswith(f"{kind}/")]

    def facts(self, name: str) -> Facts | None:
        return self._facts.get(name)

    def path(self, name: str) -> Path:
        return self._root / name

    async def hold(
        self,
        name: str,
        make: Callable[[Path], Awaitable[Facts]],
        fresh: Callable[[Facts], bool] = lambda facts: True,
    ) -> Path:
        """The folder *name*, made by *make* unless it is there; until `release` it stays.

        Whoever asks while it is being made waits for the same one. One that is no longer *fresh* is made
        anew unless somebody uses it.
        """
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._held[name] += 1
        try:
            async with lock:
                if not self._usable(name, fresh):
                    await self._make(name, make)
                await asyncio.to_thread(self._touch, name)
        except BaseException:
            self.release(name)
            raise
        return self.path(name)

    def _usable(self, name: str, fresh: Callable[[Facts], bool]) -> bool:
        facts = self._facts.get(name)
        if facts is None or not self.path(name).is_dir():
            return False
        return self._held[name] > 1 or fresh(facts)

    async def _make(self, name: str, make: Callable[[Path], Awaitable[Facts]]) -> None:
        path = self.path(name)
        self._facts.pop(name, None)
        await asyncio.to_thread(_clear, path)
        facts = await make(path)
        await asyncio.to_thread(files.write, self._mark(name), orjson.dumps(facts))
        self._facts[name] = facts
        await self._make_room()

    def keep(self, name: str) -> None:
        """One user more, of a folder that is there."""
        self._locks.setdefault(name, asyncio.Lock())
        self._held[name] += 1

    def release(self, name: str) -> None:
        """One user less."""
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]
            if not self._locks[name].locked():
                del self._locks[name]

    def _touch(self, name: str) -> None:
        """Remember that it was used now, by the disk's clock."""
        mark = self._mark(name)
        os.utime(mark)
        self._used[name] = mark.stat().st_mtime

    def _mark(self, name: str) -> Path:
        path = self.path(name)
        return path.with_name(f"{path.name}.json")

    async def _make_room(self) -> None:
        total = sum(facts["bytes"] for facts in self._facts.values())
        idle = sorted((n for n in self._facts if n not in self._held), key=lambda n: self._used.get(n, 0.0))
        for name in idle:
            if total <= self._limit:
                return
            total -= self._facts.pop(name)["bytes"]
            self._used.pop(name, None)
            await asyncio.to_thread(_drop, self._mark(name), self.path(name))


def _clear(path: Path) -> None:
    """Make place for *path*: what is there is half of something."""
    path.with_name(f"{path.name}.json").unlink(missing_ok=True)
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)


def _drop(mark: Path, path: Path) -> None:
    mark.unlink(missing_ok=True)
    remove(path)
