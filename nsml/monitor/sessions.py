"""SessionMonitor: what sessions report becomes their summaries."""

from __future__ import annotations

import asyncio

from nsml.bus import topology
from nsml.bus.consumer import consume
from nsml.core import catalogue as c
from nsml.core.messages import Envelope
from nsml.core.ports import Bus, Clock, Store
from nsml.core.summary import SUMMARY
from nsml.monitor.gone import Gone
from nsml.monitor.lanes import CONCURRENCY, Lanes
from nsml.store.unit import apply


class SessionMonitor:
    """Keeps one summary document per session that reports, until the session is removed."""

    def __init__(self, store: Store, bus: Bus, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self.ready = asyncio.Event()
        self._lanes = Lanes()
        self._gone = Gone()

    async def run(self) -> None:
        queue = topology.sessions()
        await self._bus.declare(queue)
        self.ready.set()
        handlers = {c.OutboxGrew: self._on_outbox, c.SessionRemoved: self._on_removed}
        await consume(self._bus, queue, handlers, clock=self._clock, concurrency=CONCURRENCY)

    async def _on_outbox(self, envelope: Envelope) -> None:
        grew = envelope.body
        assert isinstance(grew, c.OutboxGrew)
        if grew.session in self._gone:
            return
        async with self._lanes.of(grew.session):
            await apply(self._store, SUMMARY, grew.session, envelope)
        if grew.session in self._gone:  # it was removed meanwhile
            await self._store.drop(SUMMARY.key(grew.session))

    async def _on_removed(self, envelope: Envelope) -> None:
        removed = envelope.body
        assert isinstance(removed, c.SessionRemoved)
        self._gone.add(removed.session)
        await self._store.drop(SUMMARY.key(removed.session))
