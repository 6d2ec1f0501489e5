"""Relay: publishes what documents owe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from nsml.bus.patience import pauses
from nsml.core.errors import NsmlError, Unavailable
from nsml.core.messages import Envelope
from nsml.core.ports import Bus, Clock, Store
from nsml.core.subject import Document

log = logging.getLogger(__name__)

SCAN_EVERY = 10.0  # seconds; `owe` makes things prompt, the scan makes them certain
MOST_IN_FLIGHT = 10_000  # what is beyond it stays owed and is found by a later scan


class Relay:
    """One task for each owed message, so that a slow reader holds back nobody else's; what is published is
    settled in the store, several at a time. The term is stamped on publishing, not when the document was
    written: what a former leader still owed goes out under the present one."""

    def __init__(self, bus: Bus, store: Store, clock: Clock, term: Callable[[], int]) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._term = term
        self._due: list[tuple[str, Envelope]] = []
        self._in_flight: set[str] = set()
        self._published: dict[str, set[str]] = {}
        self._settled_in_scan: set[str] = set()
        self._scanning = False
        self._scan_due = asyncio.Event()
        self._some_due = asyncio.Event()
        self._some_published = asyncio.Event()

    def owe(self, document: Document) -> None:
        """Publish what the change that led to *document* owes; its earlier debts are known already."""
        for envelope in document.owed:
            if envelope.version == document.version:
                self._take(document.key, envelope)

    def wake(self) -> None:
        """Look in the store for what is owed now, not only at the next scan."""
        self._scan_due.set()

    async def run(self) -> None:
        """Publish what is owed, for ever."""
        self._in_flight.clear()  # of a run that was cut off: the scan finds again what is not settled
        self._published.clear()
        self._due.clear()
        self.wake()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scans(), name="relay: scan")
            group.create_task(self._tick(), name="relay: tick")
            group.create_task(self._settles(), name="relay: settle")
            while True:
                await self._some_due.wait()
                self._some_due.clear()
                due, self._due = self._due, []
                for key, envelope in due:
                    group.create_task(self._publish(key, envelope), name=f"relay: {envelope.name}")

    def _take(self, key: str, envelope: Envelope) -> None:
        if envelope.id in self._in_flight or len(self._in_flight) >= MOST_IN_FLIGHT:
            return
        self._in_flight.add(envelope.id)
        self._due.append((key, envelope))
        self._some_due.set()

    async def _publish(self, key: str, envelope: Envelope) -> None:
        for pause in pauses():
            try:
                await self._bus.publish(replace(envelope, term=self._term()))
                break
            except Unavailable as error:
                log.warning("publishing waits", extra={"route": envelope.route, "why": error.message})
            except NsmlError as error:
                log.error("message stays owed", extra={"route": envelope.route, "why": error.message})
                self._in_flight.discard(envelope.id)
                return
            await self._clock.sleep(pause)
        self._published.setdefault(key, set()).add(envelope.id)
        self._some_published.set()

    async def _settles(self) -> None:
        """Settle what is published; what gets published meanwhile is the next batch."""
        while True:
            await self._some_published.wait()
            self._some_published.clear()
            batch, self._published = self._published, {}
            async with asyncio.TaskGroup() as group:
                for key, ids in batch.items():
                    group.create_task(self._settle(key, frozenset(ids)), name=f"settle {key}")

    async def _settle(self, key: str, ids: frozenset[str]) -> None:
        for pause in pauses():
            try:
                await self._store.settle(key, ids)
                break
            except Unavailable as error:
                log.warning("settling waits", extra={"key": key, "why": error.message})
            await self._clock.sleep(pause)
        if self._scanning:
            self._settled_in_scan |= ids
        self._in_flight -= ids

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(SCAN_EVERY)
            self.wake()

    async def _scans(self) -> None:
        while True:
            await self._scan_due.wait()
            self._scan_due.clear()
            self._scanning = True
            try:
                await self._scan()
            except Unavailable as error:
                log.warning("scan put off", extra={"why": error.message})
            finally:
                self._scanning = False
                self._settled_in_scan.clear()

    async def _scan(self) -> None:
        for document in await self._store.owing():
            for envelope in document.owed:
                if envelope.id not in self._settled_in_scan:
                    self._take(document.key, envelope)
