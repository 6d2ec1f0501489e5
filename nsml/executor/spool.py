"""A session's spool: its outbox read and sent on, what it saved taken up, its questions answered."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path

import orjson

from nsml.core import outbox
from nsml.core.catalogue import CheckpointSaved, OutboxGrew, Run
from nsml.core.errors import NotFound, NsmlError
from nsml.core.ids import stream_id
from nsml.core.ports import Blobs, Clock
from nsml.executor import trees
from nsml.executor.process import remove
from nsml.executor.shipper import BATCH_BYTES, BATCH_SECONDS, LARGEST_BATCH, LOOK, Progress, Tell

log = logging.getLogger(__name__)

Checkpoints = Callable[[str, str], Awaitable[str | None]]
"""Finds the tree of (session, checkpoint); None when there is none."""

OUTBOX = re.compile(r"outbox(\.p\d{1,12})?")
SAVE = re.compile(r"saves/[\w][\w.-]{0,100}")
REQUEST = re.compile(r"[\w-]{1,64}")
LOOK_SOON = 0.02  # seconds between looks while a session asks for things
MOST_OUTBOXES = 256  # processes of a session that may report for themselves
MOST_VALUES = 500  # names in a checkpoint's summary
SAVE_FILES, SAVE_BYTES = 1_000_000, 1 << 50


class Spool:
    """Reads `outbox` and the outboxes of forked children; `run` until cancelled, then `drain`."""

    def __init__(
        self,
        folder: Path,
        who: tuple[str, int, int],
        progress: Progress,
        tell: Tell,
        clock: Clock,
        desk: Desk,
    ) -> None:
        self._folder = folder
        self._who = who
        self._progress = progress
        self._tell = tell
        self._clock = clock
        self._desk = desk
        self._boxes: dict[str, _Box] = {}

    async def run(self) -> None:
        """Read and send on what comes, for ever."""
        while True:
            busy = await self._look(drain=False)
            await self._clock.sleep(LOOK_SOON if busy else LOOK)

    async def drain(self) -> None:
        """Read and send everything that is there."""
        while await self._look(drain=True):
            pass

    def sizes(self) -> Mapping[str, int]:
        """The bytes sent of each stream."""
        return {box.stream: self._progress.offsets.get(box.name, 0) for box in self._boxes.values()}

    async def _look(self, *, drain: bool) -> bool:
        found = False
        for box in self._find():
            records = box.read(LARGEST_BATCH)
            found = found or bool(records)
            for record in records:
                self._desk.take(record)
            if drain or box.is_due(self._clock.monotonic()):
                await self._send(box)
        return found

    def _find(self) -> list[_Box]:
        try:
            names = sorted(name for name in os.listdir(self._folder) if OUTBOX.fullmatch(name))  # noqa: PTH208  (often)
        except FileNotFoundError:
            return []
        for name in names[:MOST_OUTBOXES]:
            if name not in self._boxes:
                stream = stream_id("outbox", *self._who) + name.removeprefix("outbox")
                offset = self._progress.offsets.get(name, 0)
                self._boxes[name] = _Box(self._folder / name, stream, offset)
        return list(self._boxes.values())

    async def _send(self, box: _Box) -> None:
        data = box.unsent()
        if data:
            session = self._who[0]
            await self._tell(OutboxGrew(session=session, stream=box.stream, offset=box.sent, data=data))
            box.forget(len(data), self._clock.monotonic())
            self._progress.reached(box.name, box.sent)


class _Box:
    """One outbox file: read up to `_read`, sent up to `sent`. After a restart it is read from the beginning,
    so that the row layouts are known again; taking its records twice does no harm."""

    def __init__(self, path: Path, stream: str, sent: int) -> None:
        self.name = path.name
        self.stream = stream
        self.sent = sent
        self._path = path
        self._read = 0
        self._unsent = bytearray()
        self._sent_at = 0.0
        self._names: outbox.Names = {}
        self._is_damaged = False

    def read(self, most: int) -> list[outbox.Record]:
        """The records that came since; nothing while too much waits to be sent."""
        if self._is_damaged or len(self._unsent) >= most:
            return []
        with self._path.open("rb") as file:
            length, kind = _header(os.pread(file.fileno(), 5, self._read))
            if not length or not kind:
                return []
            data = os.pread(file.fileno(), max(most, min(length, outbox.LARGEST) + 5), self._read)
        try:
            records, taken, self._names = outbox.read(data, self._names)
        except ValueError as error:
            log.warning("outbox damaged", extra={"stream": self.stream, "why": str(error)})
            self._is_damaged = True
            return []
        start, self._read = self._read, self._read + taken
        self._unsent += data[max(0, self.sent - start) : taken]
        return records

    def is_due(self, now: float) -> bool:
        waiting = len(self._unsent)
        return waiting >= BATCH_BYTES or (waiting > 0 and now - self._sent_at >= BATCH_SECONDS)

    def unsent(self) -> bytes:
        return bytes(self._unsent)

    def forget(self, count: int, now: float) -> None:
        del self._unsent[:count]
        self.sent += count
        self._sent_at = now


def _header(data: bytes) -> tuple[int, int]:
    return (int.from_bytes(data[:4], "little"), data[4]) if len(data) == 5 else (0, 0)


class Desk:
    """Does what an attempt's outbox asks for, one thing after another: keeps what it saved, brings what it
    loads. *find* knows the checkpoints of all sessions."""

    def __init__(
        self,
        folder: Path,
        who: tuple[str, int, int],
        run: Run,
        blobs: Blobs,
        tell: Tell,
        find: Checkpoints | None,
    ) -> None:
        self._folder = folder
        self._session, self._attempt, _ = who
        self._origin = run
        self._blobs = blobs
        self._tell = tell
        self._find = find
        self._jobs: asyncio.Queue[outbox.Save | outbox.Load] = asyncio.Queue()
        self._job: outbox.Save | outbox.Load | None = None  # begun, and cut off when the session ended
        self._values: dict[str, float | None] = {}
        self._summaries: dict[str, tuple[tuple[str, float | None], ...]] = {}
        self._saved: dict[str, str] = {}
        self._latest: str | None = None

    def take(self, record: outbox.Record) -> None:
        """Note what *record* says; saves and loads wait for `run`."""
        if isinstance(record, outbox.Report):
            self._values = _summary(record)
        elif isinstance(record, outbox.Save):
            self._summaries[record.path] = tuple(self._values.items())
            self._jobs.put_nowait(record)
        elif isinstance(record, outbox.Load):
            self._jobs.put_nowait(record)

    async def run(self) -> None:
        """Do what was asked for, for ever."""
        while True:
            self._job = await self._jobs.get()
            await self._do(self._job)
            self._job = None

    async def drain(self) -> None:
        """Keep every save that is left; nobody waits for loads any more."""
        jobs, self._job = [self._job], None
        while not self._jobs.empty():
            jobs.append(self._jobs.get_nowait())
        for job in jobs:
            if isinstance(job, outbox.Save):
                await self._do(job)

    async def _do(self, job: outbox.Save | outbox.Load) -> None:
        try:
            await (self._keep(job) if isinstance(job, outbox.Save) else self._bring(job))
        except (NsmlError, OSError) as error:
            log.warning("spool job failed", extra={"session": self._session, "why": str(error)})

    async def _keep(self, save: outbox.Save) -> None:
        summary = self._summaries.get(save.path, ())
        folder = self._folder / save.path
        if not SAVE.fullmatch(save.path) or not await asyncio.to_thread(folder.is_dir):
            return  # kept before a restart
        files = await asyncio.to_thread(trees.regular_files, folder, SAVE_FILES, SAVE_BYTES)
        digest, tree = await trees.store(self._blobs, folder, files)
        await self._tell(
            CheckpointSaved(
                session=self._session,
                attempt=self._attempt,
                checkpoint=save.checkpoint,
                tree=digest,
                bytes=tree.bytes,
                at=save.at,
                summary=summary,
            )
        )
        self._saved[save.checkpoint] = digest
        self._latest = save.checkpoint
        self._summaries.pop(save.path, None)
        await asyncio.to_thread(remove, folder)

    async def _bring(self, load: outbox.Load) -> None:
        if not REQUEST.fullmatch(load.request):
            return
        path = f"loads/{load.request}"
        try:
            await self._lay(load, self._folder / path)
        except NotFound as error:
            self._answer(load.request, {"error": "not-found", "message": error.message})
        else:
            self._answer(load.request, {"path": path})

    async def _lay(self, load: outbox.Load, target: Path) -> None:
        if await asyncio.to_thread(target.is_dir):
            return  # brought before a restart
        digest = await self._tree(load.session or self._session, load.checkpoint)
        tree = await trees.read(self._blobs, digest)
        half = target.with_name(f".{target.name}")
        await asyncio.to_thread(remove, half)
        await trees.lay(self._blobs, tree, half)
        await asyncio.to_thread(half.replace, target)

    async def _tree(self, session: str, checkpoint: str | None) -> str:
        """The tree of a checkpoint, None being the latest; one's own include those of whom one came from."""
        own = session == self._session
        if checkpoint is None:
            checkpoint = (self._latest if own else None) or self._origin.iteration
        if checkpoint is None:
            raise NotFound("nothing was saved yet")
        if own and checkpoint in self._saved:
            return self._saved[checkpoint]
        sessions = [session, *([self._origin.parent] if own and self._origin.parent else [])]
        for name in sessions:
            found = await self._find(name, checkpoint) if self._find else None
            if found:
                return found
        raise NotFound("no such checkpoint was saved")

    def _answer(self, request: str, answer: Mapping[str, str]) -> None:
        inbox = self._folder / "inbox"
        inbox.mkdir(exist_ok=True)
        temporary = inbox / f".{request}"
        temporary.write_bytes(orjson.dumps(answer))
        with suppress(FileNotFoundError):  # the session ended and took its spool along
            temporary.replace(inbox / f"{request}.json")


def _summary(report: outbox.Report) -> dict[str, float | None]:
    """The numbers of *report*; what is none stays away, what is not finite becomes None."""
    values: dict[str, float | None] = {}
    if report.step is not None:
        values["step"] = report.step
    for name, value in report.values[:MOST_VALUES]:
        if not isinstance(value, (str, list)):
            values[name] = value if isfinite(value) else None
    return values
