"""Recorder: telemetry messages become streams — logs, build output, reports — in order, each byte once."""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from dataclasses import dataclass

from nsml.bus import topology
from nsml.bus.consumer import consume
from nsml.core import catalogue as c
from nsml.core.errors import Conflict, Unavailable
from nsml.core.messages import Envelope
from nsml.core.ports import Bus, Clock, Streams
from nsml.monitor.gone import Gone
from nsml.monitor.lanes import CONCURRENCY, Lanes

KINDS = ("log", "log.err", "log.at", "build", "outbox")
INDEX = struct.Struct("<Qd")  # offset in the log, seconds since 1970
INDEX_EVERY = 1.0  # seconds: fine enough for `logs --since`, and a day of log has 1.4 MB of it at most
MOST_LOGS = 4096  # whose last index record is remembered; of others it is read again
GAP_PATIENCE = 60.0  # seconds for what comes before to come; then it is lost, and the message is parked


@dataclass(slots=True)
class _Last:
    """The end of an index stream: its size, and what its last record says."""

    size: int
    offset: int
    at: float


class Recorder:
    """Appends what the nodes tell to `Streams`, and drops it all when the session is removed.

    Beside each log `log/S/A` it keeps `log.at/S/A`: which byte was written when, one record a second at most.
    """

    def __init__(self, streams: Streams, bus: Bus, clock: Clock) -> None:
        self._streams = streams
        self._bus = bus
        self._clock = clock
        self.ready = asyncio.Event()
        self._lanes = Lanes()
        self._gone = Gone()
        self._indexes: OrderedDict[str, _Last] = OrderedDict()
        self._gaps: dict[str, float] = {}  # message → since when it waits; no more than are handled at once

    async def run(self) -> None:
        queue = topology.recorder()
        await self._bus.declare(queue)
        self.ready.set()
        handlers = {c.LogGrew: self._on_grew, c.OutboxGrew: self._on_grew, c.SessionRemoved: self._on_removed}
        await consume(self._bus, queue, handlers, clock=self._clock, concurrency=CONCURRENCY)

    async def _on_grew(self, envelope: Envelope) -> None:
        grew = envelope.body
        assert isinstance(grew, (c.LogGrew, c.OutboxGrew))
        if grew.session in self._gone:
            return
        async with self._lanes.of(grew.stream):
            await self._append(envelope.id, grew)
            if grew.stream.startswith("log/"):
                await self._index(grew.stream, grew.offset, envelope.at)
        if grew.session in self._gone:  # it was removed meanwhile
            await self._drop(grew.session)

    async def _append(self, message: str, grew: c.LogGrew | c.OutboxGrew) -> None:
        try:
            await self._streams.append(grew.stream, grew.offset, grew.data)
        except Conflict as gap:
            now = self._clock.monotonic()
            if now - self._gaps.setdefault(message, now) < GAP_PATIENCE:
                raise Unavailable(f"{gap.message} What comes before may be on its way.") from gap
            del self._gaps[message]
            raise
        self._gaps.pop(message, None)

    async def _on_removed(self, envelope: Envelope) -> None:
        removed = envelope.body
        assert isinstance(removed, c.SessionRemoved)
        self._gone.add(removed.session)
        await self._drop(removed.session)

    async def _drop(self, session: str) -> None:
        for kind in KINDS:
            prefix = f"{kind}/{session}/"  # with the last slash, so that alice/mnist/12 stays when 1 goes
            await self._streams.drop(prefix)
        for stream in [name for name in self._indexes if name.startswith(f"log.at/{session}/")]:
            del self._indexes[stream]

    async def _index(self, log: str, offset: int, at: float) -> None:
        """Note when *log* reached *offset*, unless the last note is fresh or this is an old message again."""
        stream = f"log.at/{log.removeprefix('log/')}"
        last = await self._last(stream)
        if last.size and (at - last.at < INDEX_EVERY or offset <= last.offset):
            return
        await self._streams.append(stream, last.size, INDEX.pack(offset, at))
        self._indexes[stream] = _Last(last.size + INDEX.size, offset, at)

    async def _last(self, stream: str) -> _Last:
        known = self._indexes.get(stream)
        if known is None:
            known = self._indexes[stream] = await self._read_last(stream)
            if len(self._indexes) > MOST_LOGS:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(stream)
        return known

    async def _read_last(self, stream: str) -> _Last:
        """What a former process left."""
        size = await self._streams.size(stream)
        if size < INDEX.size:
            return _Last(0, 0, 0.0)
        size -= size % INDEX.size
        offset, at = INDEX.unpack(await self._streams.read(stream, size - INDEX.size, INDEX.size))
        return _Last(size, offset, at)
