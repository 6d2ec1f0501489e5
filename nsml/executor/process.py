"""The embedded executor: sessions as processes on this machine, each under a supervisor that outlives us."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from nsml.core.errors import BadInput, NotFound, Unavailable
from nsml.core.plain import plain
from nsml.core.ports import Clock, Exit, Held, RunSpec
from nsml.executor import files
from nsml.executor.nursery import Nursery
from nsml.executor.supervision import cgroups, processes

TIDY_AFTER = 5.0  # seconds until what was reaped is deleted: in a rush of short sessions, starting goes first
POLL = 0.1  # seconds between looks at a supervisor on a kernel without pidfd_open


class ProcessExecutor:
    """Runs each attempt in `root/ATTEMPT`: `run.json` says what was asked for, `pid` who supervises it,
    `exit.json` how it ended. These files are all that is needed to find everything again."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._nursery = Nursery()
        self._waiting: dict[str, asyncio.Task[Exit]] = {}
        self._tidying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(self._tidy)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._waiting.values():
            task.cancel()
        await asyncio.gather(*self._waiting.values(), return_exceptions=True)
        self._waiting.clear()
        if self._tidying:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
            await asyncio.to_thread(self._tidy)
        await self._nursery.close()

    async def ping(self) -> None:
        if not os.access(self._root, os.W_OK):
            raise Unavailable(f"{self._root} cannot be written: no session can start here.")

    async def start(self, spec: RunSpec) -> None:
        """Idempotent by attempt. Raises `BadInput` when it can never start, `Unavailable` when not now."""
        folder = self._folder(spec.attempt)
        if (folder / "pid").exists():
            return
        _check(spec, folder)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            files.write(folder / "run.json", orjson.dumps({**plain(spec), "group": _group(folder)}))
        except OSError as error:
            raise Unavailable(f"The run directory of {spec.attempt} cannot be written: {error}.") from error
        await self._nursery.supervise(folder)

    async def wait(self, attempt: str) -> Exit:
        """How *attempt* ended, as soon as it has. Raises `NotFound` for one that is not held."""
        self._known(attempt)
        task = self._waiting.get(attempt)
        if task is None:
            task = asyncio.create_task(self._ended(attempt), name=f"exit of {attempt}")
            task.add_done_callback(lambda _: self._waiting.pop(attempt, None))
            self._waiting[attempt] = task
        return await asyncio.shield(task)

    async def stop(self, attempt: str, grace: float) -> None:
        """SIGTERM, after *grace* seconds SIGKILL, to every descendant; returns once all are gone."""
        folder = self._known(attempt)
        if not (folder / "exit.json").exists():
            files.write(folder / "stop", str(max(0.0, grace)).encode())
            with contextlib.suppress(ProcessLookupError):
                _signal(_supervisor(folder))
        await self.wait(attempt)

    async def reap(self, attempt: str) -> None:
        """Forget it and its run directory; only now is its exit gone. One that still runs is killed."""
        folder = self._folder(attempt)
        if not folder.exists():
            return
        if (folder / "pid").exists():
            await self.stop(attempt, 0.0)
        _set_aside(folder)
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._tidy_later(), name="tidy run directories")

    async def _tidy_later(self) -> None:
        await self._clock.sleep(TIDY_AFTER)
        await asyncio.to_thread(self._tidy)

    def _tidy(self) -> None:
        """Delete what was reaped; also by a former process."""
        for doomed in self._root.glob(".gone.*"):
            shutil.rmtree(doomed, onerror=_make_writable)

    async def held(self) -> Sequence[Held]:
        """Also what a former process left behind."""
        return await asyncio.to_thread(self._scan)

    def _scan(self) -> list[Held]:
        folders = sorted(f for f in self._root.iterdir() if f.name[0] != "." and (f / "pid").exists())
        return [Held(attempt=f.name, running=not (f / "exit.json").exists()) for f in folders]

    def _folder(self, attempt: str) -> Path:
        if not attempt or "/" in attempt or attempt.startswith("."):
            raise BadInput(f"{attempt!r} cannot name an attempt.")
        return self._root / attempt

    def _known(self, attempt: str) -> Path:
        folder = self._folder(attempt)
        if not (folder / "pid").exists():
            raise NotFound(f"No attempt {attempt} is held here.")
        return folder

    async def _ended(self, attempt: str) -> Exit:
        folder = self._root / attempt
        if not (folder / "exit.json").exists():
            await self._gone(_supervisor(folder))
        found = _exit(folder)
        if found is None:
            found = await asyncio.to_thread(_lost, folder)
        return found

    async def _gone(self, who: dict[str, Any]) -> None:
        """Until the supervisor *who* has ended."""
        try:
            fd = os.pidfd_open(who["pid"])
        except ProcessLookupError:
            return
        except OSError:
            while processes.is_alive(who):
                await self._clock.sleep(POLL)
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            if processes.is_alive(who):  # asked after opening: from here on the pid cannot be somebody else's
                loop.add_reader(fd, ended.set)
                await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)


def _check(spec: RunSpec, folder: Path) -> None:
    if Path(spec.folder) != folder:
        raise BadInput(f"{spec.attempt} runs in {folder}, not in {spec.folder}.")
    if not spec.argv or not spec.argv[0]:
        raise BadInput(f"{spec.attempt} names no program.")
    if any("\0" in text for text in (*spec.argv, spec.cwd, *(word for pair in spec.env for word in pair))):
        raise BadInput(f"{spec.attempt} has a NUL character in its arguments or environment.")


def _group(folder: Path) -> str:
    """The name of the attempt's control groups: one for each folder of the machine."""
    return f"nsml-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _supervisor(folder: Path) -> dict[str, Any]:
    who: dict[str, Any] = orjson.loads((folder / "pid").read_bytes())
    return who


def _signal(who: dict[str, Any]) -> None:
    """SIGTERM to the supervisor *who*, and to nobody who got its pid since. Raises `ProcessLookupError`."""
    fd = os.pidfd_open(who["pid"])
    try:
        if processes.is_alive(who):
            signal.pidfd_send_signal(fd, signal.SIGTERM)
    finally:
        os.close(fd)


def _exit(folder: Path) -> Exit | None:
    try:
        found: dict[str, Any] = orjson.loads((folder / "exit.json").read_bytes())
    except FileNotFoundError:
        return None
    return Exit(code=found["code"], cause=found["cause"], reason=found["reason"], seconds=found["seconds"])


def _lost(folder: Path) -> Exit:
    """The supervisor ended without a word (killed, or the machine restarted): end what it left behind."""
    controllers = cgroups.find()
    group = cgroups.Group(controllers, _group(folder))
    left = {*group.members(), *processes.mentioning(f"{folder}/")} - {os.getpid()}
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    group.remove()
    reason = "its supervisor was killed, or the machine restarted"
    with contextlib.suppress(OSError):  # the disk is full: it is found out again when it is asked for again
        end = {"code": None, "cause": "lost", "reason": reason, "seconds": 0.0}
        files.write(folder / "exit.json", orjson.dumps(end))
    return Exit(code=None, cause="lost", reason=reason)


def remove(folder: Path) -> None:
    """Delete *folder*, also what was made unwritable in it; its name is free at once."""
    doomed = _set_aside(folder)
    if doomed is not None:
        shutil.rmtree(doomed, onerror=_make_writable)


def _set_aside(folder: Path) -> Path | None:
    """Free the name of *folder*; where it lies now, None if there was none."""
    doomed = folder.with_name(f".gone.{os.getpid()}.{secrets.token_hex(4)}.{folder.name}")
    try:
        return folder.replace(doomed)
    except FileNotFoundError:
        return None


def _make_writable(function: Any, path: str, _: Any) -> None:
    """rmtree met something it may not delete: open up the folders around it and try again."""
    with contextlib.suppress(OSError):
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            Path(path).unlink(missing_ok=True)
