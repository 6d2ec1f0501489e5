"""What the parts of the scheduler share while it leads: how documents change, and what is known of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from nsml.bus.relay import Relay
from nsml.core.errors import Fenced, Unavailable
from nsml.core.messages import Envelope, Message
from nsml.core.node import NODE
from nsml.core.ports import Clock, Store
from nsml.core.session import ACTIVE, SESSION
from nsml.core.subject import Document, Subject
from nsml.scheduler.index import Index
from nsml.scheduler.lease import Lease
from nsml.scheduler.liveness import Sight
from nsml.store.unit import apply

log = logging.getLogger(__name__)

ALL = 1_000_000  # documents: a scan without a limit
PAUSE = 1.0  # seconds after a failure, before a loop goes on


@dataclass(slots=True)
class Books:
    """Made anew each time the scheduler begins to lead, so that nothing is believed from before. `changed` is
    set when there may be something to place, `removed` holds sessions whose checkpoints have to go."""

    store: Store
    relay: Relay
    lease: Lease
    clock: Clock
    index: Index = field(default_factory=Index)
    sights: dict[str, Sight] = field(default_factory=dict)
    cached: dict[str, frozenset[str]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    removed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def write(self, subject: Subject[Any], name: str, envelope: Envelope) -> Document | None:
        """Let *envelope* change a document, publish what it then owes, and take note."""
        document = await apply(self.store, subject, name, envelope, self.lease.term)
        if document is not None:
            self.relay.owe(document)
            if subject in (SESSION, NODE):
                self.index.put(document)
                self.changed.set()
        return document

    async def decide(self, subject: Subject[Any], name: str, message: Message) -> Document | None:
        """Let a decision of our own change a document."""
        return await self.write(subject, name, Envelope(body=message, at=self.clock.now()))

    async def read(self) -> None:
        """Compare the index with the store."""
        self.index.begin()
        active = await self.store.scan(
            SESSION.kind, {"state": tuple(sorted(str(state) for state in ACTIVE))}, limit=ALL
        )
        nodes = await self.store.scan(NODE.kind, limit=ALL)
        for name in self.index.compare([*active, *nodes]):
            document = await self.store.load(SESSION.key(name))
            if document:
                self.index.put(document)
        self.changed.set()

    async def attempt(self, work: Callable[[], Awaitable[None]], what: str) -> bool:
        """Do *work* of a loop; whether it was done. A failure is logged and left to the next round: one
        session that cannot be handled must not stop the others. Only being fenced ends the loop."""
        try:
            await work()
        except* Fenced:
            raise
        except* Unavailable as away:
            log.warning("%s waits", what, extra={"why": str(away.exceptions[0])})
        except* Exception:  # the reason is above
            log.exception("%s failed", what)
        else:
            return True
        return False
