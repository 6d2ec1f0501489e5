"""What passes on the bus now: outcomes of commands, nodes' last reports, bells for who follows a session."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from nsml.bus import topology
from nsml.core import catalogue as c
from nsml.core.ids import new_id
from nsml.core.messages import Envelope, Message
from nsml.core.ports import Bus, Clock

MOST_NODES = 20_000  # a node that makes up names for ever must not fill our memory


@dataclass(slots=True)
class Outcome:
    """The first event that a command caused, once there is one; with *wanted* of that kind (or a refusal)."""

    wanted: type[Message] | None
    event: asyncio.Future[Envelope]

    def offer(self, envelope: Envelope) -> None:
        fits = self.wanted is None or isinstance(envelope.body, (self.wanted, c.CommandRejected))
        if fits and not self.event.done():
            self.event.set_result(envelope)

    async def within(self, seconds: float) -> Envelope | None:
        """The event, or None when there was none in that time."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self.event)
        except TimeoutError:
            return None


@dataclass(slots=True, eq=False)
class Bell:
    """Rings when something of a session happened. A message may come before its bytes are recorded, so
    `grown` says how far each stream is known to reach."""

    rung: asyncio.Event = field(default_factory=asyncio.Event)
    grown: dict[str, int] = field(default_factory=dict)

    def ring(self) -> None:
        self.rung.set()

    async def within(self, seconds: float) -> bool:
        """Wait for a ring, at most that long; whether there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self.rung.wait()
        except TimeoutError:
            return False
        self.rung.clear()
        return True


class Live:
    """The API's one subscription. Nothing is kept but what somebody waits for, and one report a node."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._outcomes: dict[str, Outcome] = {}
        self._bells: dict[str, set[Bell]] = defaultdict(set)
        self.reports: dict[str, Envelope] = {}
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Read the bus for ever."""
        queue = topology.follow(new_id())
        await self._bus.declare(queue)
        self.ready.set()
        async for delivery in self._bus.deliveries(queue):
            self._note(delivery.envelope)
            await delivery.ack()

    def report(self, node: str) -> tuple[float, c.NodeReported] | None:
        """A node's last heartbeat and when it came."""
        envelope = self.reports.get(node)
        return (envelope.at, cast(c.NodeReported, envelope.body)) if envelope else None

    @contextmanager
    def expect(self, cause: str, wanted: type[Message] | None = None) -> Iterator[Outcome]:
        """Listen, while inside, for the first event caused by the command *cause*."""
        outcome = Outcome(wanted, asyncio.get_running_loop().create_future())
        self._outcomes[cause] = outcome
        try:
            yield outcome
        finally:
            if self._outcomes.get(cause) is outcome:
                del self._outcomes[cause]

    @contextmanager
    def watch(self, session: str) -> Iterator[Bell]:
        """A bell, while inside, for what happens to *session*."""
        bell = Bell()
        self._bells[session].add(bell)
        try:
            yield bell
        finally:
            self._bells[session].discard(bell)
            if not self._bells[session]:
                del self._bells[session]

    def _note(self, envelope: Envelope) -> None:
        body = envelope.body
        if isinstance(body, c.NodeReported):
            self._note_node(envelope, body)
            return
        if body.form == "evt":
            for key in (envelope.cause, getattr(body, "ask", "")):
                if key in self._outcomes:
                    self._outcomes[key].offer(envelope)
        session = getattr(body, "session", "")
        for bell in self._bells.get(session, ()):
            if isinstance(body, (c.LogGrew, c.OutboxGrew)):
                reach = body.offset + len(body.data)
                bell.grown[body.stream] = max(reach, bell.grown.get(body.stream, 0))
            bell.ring()

    def _note_node(self, envelope: Envelope, body: c.NodeReported) -> None:
        known = self.reports.get(body.node)
        if known is None or known.at <= envelope.at:
            self.reports[body.node] = envelope
        while len(self.reports) > MOST_NODES:
            del self.reports[next(iter(self.reports))]
