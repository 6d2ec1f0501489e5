"""Builds one environment: a virtual environment in front of the base interpreter's packages."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from nsml.core.errors import BadInput, Unavailable
from nsml.executor.requirements import Wanted, satisfied
from nsml.executor.shelf import Facts

log = logging.getLogger(__name__)

SETUP_READER = Path(__file__).with_name("setup_reader.py")
TAIL = 20  # lines of a failed build that a session's log repeats
PATIENCE = 3600.0  # seconds for one installation: a large framework over a slow line
QUESTION = 60.0  # seconds for an interpreter's answer about itself
BASE_FILE = "_nsml_base.pth"  # begins with "_": read before nothing, appended after the environment's own

ASK = """
import importlib.metadata as m, json, re, sys, sysconfig
names = {}
for d in m.distributions():
    if d.metadata and d.metadata["Name"]:
        names[re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower()] = d.version
print(json.dumps({
    "identity": sys.version + sys.prefix + sys.base_prefix,
    "version": list(sys.version_info[:2]),
    "sites": [p for p in sys.path if p.rstrip("/").endswith(("site-packages", "dist-packages"))],
    "installed": names,
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An interpreter as it describes itself: where its packages lie and which there are."""

    python: str
    identity: str
    version: tuple[int, int]
    sites: tuple[str, ...]
    installed: dict[str, str]


async def examine(python: str) -> Base:
    """Ask *python* about itself. Raises `BadInput` when it is no interpreter."""
    try:
        process = await asyncio.create_subprocess_exec(
            python, "-c", ASK, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(QUESTION):
            output, _ = await process.communicate()
        told = orjson.loads(output)
    except (OSError, TimeoutError, ValueError) as error:
        hint = "Set NSML_PYTHON to the Python that sessions are to use."
        raise BadInput(f"{python} does not answer as a Python interpreter: {error}.", hint) from error
    return Base(
        python=python,
        identity=hashlib.sha256(told["identity"].encode()).hexdigest(),
        version=(told["version"][0], told["version"][1]),
        sites=tuple(told["sites"]),
        installed=told["installed"],
    )


class Installer:
    """One build, with *listeners* that hear its output as it comes."""

    def __init__(self, base: Base, path: Path, listeners: Sequence[Callable[[bytes], None]]) -> None:
        self._base = base
        self._path = path
        self._listeners = listeners
        self._uv = _find_uv()
        self._tail: deque[bytes] = deque(maxlen=TAIL)
        self._kept_tail: list[bytes] = []

    async def build(self, want: Wanted, app: Path) -> Facts:
        """Make the environment; what cannot be installed is left out and named in the facts."""
        self._say(b"Building the environment. It might take a while.\n")
        await self._make()
        failed = []
        for requirements in (await self._of_setup(want, app), want.requirements):
            failed += await self._install(requirements, want.options, app)
        size = await asyncio.to_thread(_bytes_below, self._path)
        words = b"Environment is ready.\n" if not failed else b"Environment is ready, but lacks something.\n"
        self._say(words)
        tail = b"".join(self._kept_tail).decode(errors="replace")
        return {"bytes": size, "failed": failed, "tail": tail}

    async def _make(self) -> None:
        if self._uv:
            make = [self._uv, "venv", "--quiet", "--no-project", "--no-config"]
            make += ["--python", self._base.python, str(self._path)]
        else:
            make = [self._base.python, "-m", "venv", str(self._path)]
        if await self._run(make, self._path.parent) != 0:
            raise Unavailable("No virtual environment can be made: " + self._last_words())
        await asyncio.to_thread(self._show_base)

    def _show_base(self) -> None:
        """Let the packages of the base be found behind the environment's own."""
        version = ".".join(map(str, self._base.version))
        site = self._path / "lib" / f"python{version}" / "site-packages"
        lines = [f"import site; site.addsitedir({path!r})" for path in self._base.sites]
        (site / BASE_FILE).write_text("\n".join(lines) + "\n")

    async def _of_setup(self, want: Wanted, app: Path) -> tuple[str, ...]:
        """What setup.py lists as install_requires; a setup.py that fails asks for nothing, and is told."""
        if not want.setup:
            return ()
        process = await asyncio.create_subprocess_exec(
            self._base.python,
            "-I",
            str(SETUP_READER),
            str(app / "setup.py"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(QUESTION):
                output, trouble = await process.communicate()
            return tuple(orjson.loads(output))
        except TimeoutError:
            self._say(b"setup.py did not end: what it asks for is not installed.\n")
        except ValueError:
            self._say(trouble + b"\nsetup.py failed: what it asks for is not installed.\n")
        finally:
            _kill(process)
        return ()

    async def _install(self, requirements: Sequence[str], options: Sequence[str], app: Path) -> list[str]:
        """Install *requirements*: all at once, or, if that fails, one by one; those that failed."""
        there = satisfied(requirements, self._base.installed)
        for name in there:
            self._say(f"{name} is there already.\n".encode())
        wanted = [r for r in requirements if r not in there]
        if not wanted or await self._pip(wanted, options, app) == 0:
            return []
        self._keep_tail()
        if len(wanted) == 1:
            return wanted
        self._say(b"Not all of it can be installed. Trying one by one.\n")
        failed = []
        for requirement in wanted:
            if await self._pip([requirement], options, app) != 0:
                failed.append(requirement)
                self._keep_tail()
        return failed

    async def _pip(self, requirements: Sequence[str], options: Sequence[str], app: Path) -> int:
        listed = self._path / "nsml-requirements.txt"
        listed.write_text("\n".join([*options, *requirements]) + "\n", errors="surrogateescape")
        python = str(self._path / "bin" / "python")
        if self._uv:
            command = [self._uv, "pip", "install", "--python", python, "--color", "never"]
        else:
            command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        self._tail.clear()
        return await self._run([*command, "-r", str(listed)], app)

    async def _run(self, command: Sequence[str], folder: Path) -> int:
        """Run *command*; its output goes to the listeners; its exit code."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout
        try:
            async with asyncio.timeout(PATIENCE):
                while data := await process.stdout.read(1 << 16):
                    self._say(data)
                return await process.wait()
        except TimeoutError:
            self._say(f"It took longer than {PATIENCE:g} s.\n".encode())
            return 1
        finally:
            _kill(process)

    def _say(self, data: bytes) -> None:
        self._tail.extend(data.splitlines(keepends=True))
        for listener in list(self._listeners):
            listener(data)

    def _keep_tail(self) -> None:
        self._kept_tail = list(self._tail)

    def _last_words(self) -> str:
        return b"".join(self._tail).decode(errors="replace").strip()


def _find_uv() -> str:
    """The path of `uv`, or "" when there is none."""
    with suppress(ImportError, FileNotFoundError):
        import uv

        return str(uv.find_uv_bin())
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv") or ""


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9) if os.getpgid(process.pid) == process.pid else process.kill()


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118  (a hundred thousand)
    return total
