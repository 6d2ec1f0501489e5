"""One task per attempt: lay it out, start it, wait for it, bring everything of it to safety, tell its end."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import orjson

from nsml.bus.patience import pauses
from nsml.core.catalogue import AttemptExited, AttemptProgressed, AttemptStarted
from nsml.core.errors import NotFound, NsmlError, Unavailable
from nsml.core.plain import plain, restore
from nsml.core.ports import Exit
from nsml.executor import attempt, files, layout, output
from nsml.executor.attempt import Kept, Phase
from nsml.executor.layout import Node, NotBuilt
from nsml.executor.shipper import LogShipper, Progress, tail
from nsml.executor.spool import Desk, Spool

log = logging.getLogger(__name__)

TAIL = 20  # lines of the log that a mail and `nsml ps` show
T = TypeVar("T")


class Supervisor:
    """An attempt on this node. Its folder tells, after any crash, how far it came."""

    def __init__(self, node: Node, kept: Kept, after: asyncio.Event | None = None) -> None:
        self.kept = kept
        self.phase = Phase.DATA
        self.task: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()  # its processes, if there were any
        self._node = node
        self._after = after
        self._folder = node.attempts / kept.id
        self._ended: AttemptExited | None = None
        self._grace = 0.0
        self._stopping = asyncio.Event()
        progress = Progress(self._folder, node.clock)
        common = (self._folder, kept.who, progress, node.tell, node.clock)
        spool = self._folder / "spool"
        self._logs = LogShipper(*common)
        self._desk = Desk(spool, kept.who, kept.spec.run, node.blobs, node.tell, node.checkpoints)
        self._spool = Spool(spool, *common[1:], self._desk)

    async def run(self) -> None:
        """Live this attempt from wherever its folder says it is, and tell how it ended."""
        self.phase = attempt.phase_of({path.name for path in self._folder.iterdir()})
        self._remember_stop()
        if self.phase is Phase.ENDED:
            self._ended = restore(AttemptExited, orjson.loads((self._folder / "ended.json").read_bytes()))
        else:
            self._ended = await self._live()
            ended = orjson.dumps(plain(self._ended))
            await self._patiently(lambda: self._write("ended.json", ended))
        self.phase = Phase.ENDED
        self.gone.set()
        await self._node.tell(self._ended)

    def stop(self, grace: float, *, save: bool = False) -> None:
        """End it, after *grace* seconds by force. Lasts over a restart; may be asked for again, with less.

        With *save* the library in the session saves first, if the session has told it how.
        """
        if save and self.phase is Phase.RUNNING:
            inbox = self._folder / "spool" / "inbox"
            inbox.mkdir(exist_ok=True)
            (inbox / "save").touch()
        files.write(self._folder / "stop", str(grace).encode())
        self._grace = grace
        self._stopping.set()

    def _remember_stop(self) -> None:
        """A wish to stop that came before a restart."""
        with suppress(FileNotFoundError, ValueError):
            self._grace = float((self._folder / "stop").read_text())
            self._stopping.set()

    async def repeat(self) -> None:
        """Tell again what was told last."""
        if self._ended is not None:
            await self._node.tell(self._ended)
        elif self.phase is Phase.RUNNING:
            await self._tell_started()

    async def produced(self) -> str:
        """The tree of the files produced so far, "" for none."""
        if self._ended is not None:
            return self._ended.output
        return await self._produced() if self.phase is Phase.RUNNING else ""

    # -- its life ------------------------------------------------------------------------------------
    async def _live(self) -> AttemptExited:
        async with AsyncExitStack() as held:
            if self.phase is Phase.RUNNING:
                await layout.hold_again(self._node, self.kept, self._folder, held)
                found = await self._attend()
            else:
                found = await self._begin(held) or await self._attend()
            self.gone.set()
            self.phase = Phase.CLOSING
            return await self._close(found)

    async def _begin(self, held: AsyncExitStack) -> Exit | None:
        """Lay it out and start it; an `Exit` when it does not come to that."""
        preparing = asyncio.create_task(self._prepared(held), name=f"prepare {self.kept.id}")
        stopping = asyncio.create_task(self._stopping.wait(), name=f"stop of {self.kept.id}")
        try:
            await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                return preparing.result()
        finally:
            for task in (preparing, stopping):
                task.cancel()
            await asyncio.gather(preparing, stopping, return_exceptions=True)
        if (self._folder / "pid").exists():  # it started in that very moment
            return None
        return Exit(code=None, cause="stopped", reason="stopped before it started")

    async def _prepared(self, held: AsyncExitStack) -> Exit | None:
        if self._after is not None:
            await self._after.wait()
        try:
            await self._patiently(lambda: self._start(held))
        except NotBuilt as error:
            return Exit(code=None, cause="environment", reason=error.message)
        except NsmlError as error:
            return Exit(code=None, cause="error", reason=error.message)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the node's disk is full" if full else f"it cannot be laid out: {error}"
            return Exit(code=None, cause="disk" if full else "error", reason=reason)
        return None

    async def _start(self, held: AsyncExitStack) -> None:
        spec = await layout.lay(self._node, self.kept, self._folder, held, self._progress, self._logs.ship)
        await self._node.executor.start(spec)

    async def _progress(self, phase: Phase, detail: str = "") -> None:
        self.phase = phase
        session, number, _ = self.kept.who
        told = AttemptProgressed(
            session=session, attempt=number, node=self._node.name, phase=phase, detail=detail
        )
        await self._node.tell(told)

    async def _attend(self) -> Exit:
        """Until its processes are gone, send on what it writes and do what it asks for."""
        self.phase = Phase.RUNNING
        executor, name = self._node.executor, self.kept.id
        async with asyncio.TaskGroup() as group:
            told = group.create_task(self._tell_started(), name=f"start of {name}")
            loops = (self._logs.run(), self._spool.run(), self._desk.run(), self._stops())
            tasks = [group.create_task(loop, name=f"streams of {name}") for loop in loops]
            try:
                found = await executor.wait(name)
            except NotFound:
                found = Exit(code=None, cause="lost", reason="its run directory is gone")
            await told
            for task in tasks:
                task.cancel()
        return found

    async def _tell_started(self) -> None:
        session, number, rank = self.kept.who
        started = AttemptStarted(
            session=session, attempt=number, rank=rank, node=self._node.name, handle=self.kept.id
        )
        await self._node.tell(started)

    async def _stops(self) -> None:
        """Pass on each wish to stop; a later one may leave less grace."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._stopping.wait()
                self._stopping.clear()
                group.create_task(self._node.executor.stop(self.kept.id, self._grace))

    # -- its end ---------------------------------------------------------------------------------------
    async def _close(self, found: Exit) -> AttemptExited:
        """Bring to safety whatever is left of it, in an order that makes its end the last thing told."""
        await self._logs.drain()
        await self._spool.drain()
        await self._desk.drain()
        return attempt.exited(
            self.kept,
            self._node.name,
            found,
            tail=tail(self._folder / "log", TAIL),
            output=await self._produced(),
            streams={**self._logs.sizes(), **self._spool.sizes()},
        )

    async def _produced(self) -> str:
        app, laid = self._folder / "app", self._folder / "run.json"
        code = self.kept.spec.run.code
        try:
            return await self._patiently(lambda: output.keep(self._node.blobs, app, laid, code))
        except (NsmlError, OSError) as error:
            log.warning("produced files not kept", extra={"attempt": self.kept.id, "why": str(error)})
            return ""

    async def _write(self, name: str, data: bytes) -> None:
        try:
            files.write(self._folder / name, data)
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be written: {error.strerror}.") from error

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of *work*, begun again while a server is away."""
        for pause in pauses():
            try:
                return await work()
            except Unavailable as error:
                log.warning("attempt waits", extra={"attempt": self.kept.id, "why": error.message})
            await self._node.clock.sleep(pause)
        raise AssertionError("pauses end never")


def read_kept(folder: Path) -> Kept:
    """The attempt that *folder* keeps. Raises ValueError, TypeError or OSError when it keeps none."""
    return restore(Kept, orjson.loads((folder / "spec.json").read_bytes()))


def write_kept(folder: Path, kept: Kept) -> None:
    """Make the folder that keeps *kept*; from here on a restart finds the attempt."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(folder / "spec.json", orjson.dumps(plain(kept)))
