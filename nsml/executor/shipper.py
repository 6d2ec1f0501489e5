"""What a session writes, sent on as streams: in order, in batches, and again until it has arrived."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import orjson

from nsml.core.catalogue import LogGrew
from nsml.core.ids import stream_id
from nsml.core.messages import Message
from nsml.core.ports import Clock
from nsml.executor import files

Tell = Callable[[Message], Awaitable[None]]

KINDS = ("log", "log.err", "build")
BATCH_SECONDS = 0.25  # so that a chatty session costs four messages a second, not a thousand
BATCH_BYTES = 64 << 10  # a batch this large goes at once
LARGEST_BATCH = 1 << 20  # behind by more: fewer, larger messages
LOOK_FIRST, LOOK = 0.03, 0.1  # seconds between looks: the first lines are waited for by somebody
FIRST_SECONDS = 2.0
REMEMBER_EVERY = 1.0  # seconds between notes of how far we are; what is sent again does no harm
PAIR = 16  # bytes of one range in log.err


class Progress:
    """How far each stream of an attempt is sent, kept in `shipped.json` across restarts of the node."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._file = folder / "shipped.json"
        self._clock = clock
        self._kept_at = clock.monotonic()
        self.offsets: dict[str, int] = {}
        with suppress(FileNotFoundError, ValueError):
            self.offsets = {str(k): int(v) for k, v in orjson.loads(self._file.read_bytes()).items()}

    def reached(self, name: str, offset: int) -> None:
        self.offsets[name] = offset
        if self._clock.monotonic() - self._kept_at >= REMEMBER_EVERY:
            files.write(self._file, orjson.dumps(self.offsets))
            self._kept_at = self._clock.monotonic()


class LogShipper:
    """Sends an attempt's `log`, `log.err` and `build`."""

    def __init__(
        self, folder: Path, who: tuple[str, int, int], progress: Progress, tell: Tell, clock: Clock
    ) -> None:
        self._session = who[0]
        self._tell = tell
        self._clock = clock
        self._progress = progress
        self._paths = {kind: folder / kind for kind in KINDS}
        self._streams = {kind: stream_id(kind, *who) for kind in KINDS}
        self._sent_at: dict[str, float] = {}
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Send what grows, for ever."""
        began = self._clock.monotonic()
        while True:
            await self.ship()
            young = self._clock.monotonic() - began < FIRST_SECONDS
            await self._clock.sleep(LOOK_FIRST if young else LOOK)

    async def ship(self) -> None:
        """Send what is due."""
        for kind in KINDS:
            await self._ship(kind, drain=False)

    async def drain(self) -> None:
        """Send everything; returns when all of it has arrived."""
        for kind in KINDS:
            await self._ship(kind, drain=True)

    def sizes(self) -> Mapping[str, int]:
        """The bytes sent of each stream."""
        return {stream: self._progress.offsets.get(kind, 0) for kind, stream in self._streams.items()}

    async def _ship(self, kind: str, *, drain: bool) -> None:
        async with self._lock:
            while self._is_due(kind, drain):
                offset = self._progress.offsets.get(kind, 0)
                data = _read(self._paths[kind], offset, LARGEST_BATCH)
                if kind == "log.err":
                    data = data[: len(data) // PAIR * PAIR]
                if not data:
                    return
                stream = self._streams[kind]
                await self._tell(LogGrew(session=self._session, stream=stream, offset=offset, data=data))
                self._sent_at[kind] = self._clock.monotonic()
                self._progress.reached(kind, offset + len(data))

    def _is_due(self, kind: str, drain: bool) -> bool:
        try:
            pending = self._paths[kind].stat().st_size - self._progress.offsets.get(kind, 0)
        except FileNotFoundError:
            return False
        since = self._clock.monotonic() - self._sent_at.get(kind, 0.0)
        return pending > 0 and (drain or pending >= BATCH_BYTES or since >= BATCH_SECONDS)


def _read(path: Path, offset: int, most: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), most, offset)


def tail(path: Path, lines: int) -> str:
    """The last *lines* of the file *path*, fit to be shown."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), 1 << 14, max(0, size - (1 << 14)))
    except FileNotFoundError:
        return ""
    text = data.decode(errors="replace").replace("\r\n", "\n")
    last = [line.rpartition("\r")[2] for line in text.rstrip("\n").split("\n")[-lines:]]
    shown = "\n".join(last).replace("\t", "    ")
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in shown)
