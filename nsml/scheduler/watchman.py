"""The watching loop: acts on what `liveness` finds."""

from __future__ import annotations

import logging

from nsml.core import catalogue as c
from nsml.core.messages import Envelope, Message
from nsml.core.node import NODE
from nsml.core.ports import Bus
from nsml.core.session import SESSION
from nsml.scheduler.books import Books
from nsml.scheduler.liveness import Findings, Held, Watch, examine
from nsml.scheduler.policy import Patience, Placing

log = logging.getLogger(__name__)


class Watchman:
    """Looks every second while there are sessions, else every few; and compares memory with the store."""

    def __init__(self, placing: Placing, patience: Patience, books: Books, bus: Bus) -> None:
        self._placing = placing
        self._patience = patience
        self._books = books
        self._bus = bus
        self._since = self._read = books.clock.monotonic()
        self._doubts: dict[tuple[str, Held], float] = {}
        self._sent: dict[tuple[str, str, str, int], float] = {}
        self._alarm = ""

    async def run(self) -> None:
        """Watch for ever. An order that cannot be sent now is found again at the next look."""
        while True:
            busy = bool(self._books.index.sessions)
            await self._books.clock.sleep(self._patience.busy if busy else self._patience.idle)
            await self._books.attempt(self._compare, "comparing")
            await self._books.attempt(self._look, "watching")

    async def _compare(self) -> None:
        now = self._books.clock.monotonic()
        if now - self._read > self._placing.resync:
            self._read = now
            await self._books.read()

    async def _look(self) -> None:
        books = self._books
        watch = Watch(
            now=books.clock.monotonic(),
            since=self._since,
            nodes=tuple(books.index.nodes.values()),
            sessions=books.index.sessions,
            sights=books.sights,
            doubts=self._doubts,
        )
        findings = examine(watch, self._patience)
        self._doubts = dict(findings.doubts)
        await self._act(findings, watch.now)

    async def _act(self, findings: Findings, now: float) -> None:
        if findings.alarm != self._alarm:
            self._alarm = findings.alarm
            log.warning(findings.alarm or "the nodes are heard again")
        for order in findings.lose:
            log.warning("node lost", extra={"node": order.node, "why": order.reason})
            await self._books.decide(NODE, order.node, order)
        for lost in findings.lost:
            log.warning("attempt lost", extra={"session": lost.session, "why": lost.reason})
            await self._books.decide(SESSION, lost.session, lost)
        for message, node in findings.send:
            await self._send(message, node, now)

    async def _send(self, message: Message, node: str, now: float) -> None:
        """Send an order, but not the same one at every look: the next report must have had time to come."""
        self._sent = {key: at for key, at in self._sent.items() if now - at < self._patience.unstarted}
        assert isinstance(message, c.StartAttempt | c.StopAttempt | c.ReapAttempt)
        key = (message.name, node, message.session, message.attempt)
        if key in self._sent:
            return
        self._sent[key] = now
        log.info("order sent again", extra={"order": message.name, "session": message.session, "to": node})
        await self._bus.publish(
            Envelope(body=message, at=self._books.clock.now(), to=node, term=self._books.lease.term)
        )
