"""The scheduler: takes what is asked and what happened, lets it change documents, and leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from nsml.bus import topology
from nsml.bus.consumer import Handler, consume
from nsml.bus.relay import Relay
from nsml.core import catalogue as c
from nsml.core import checkpoint
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.dataset import DATASET
from nsml.core.errors import Fenced, NotRunning, Unavailable
from nsml.core.messages import Envelope, Message
from nsml.core.node import NODE, Node, NodeState
from nsml.core.ports import Bus, Clock, Store
from nsml.core.session import SESSION, State
from nsml.core.subject import owed_id
from nsml.scheduler.books import Books
from nsml.scheduler.housekeeping import Housekeeping
from nsml.scheduler.lease import Deposed, Lease
from nsml.scheduler.liveness import sight_of
from nsml.scheduler.placer import Placer
from nsml.scheduler.policy import Patience, Placing
from nsml.scheduler.watchman import Watchman

log = logging.getLogger(__name__)

AT_ONCE = 32  # messages handled side by side, so that one transaction of the store holds several

SESSION_MESSAGES: tuple[type[Message], ...] = (
    c.RunSession,
    c.StopSession,
    c.RemoveSession,
    c.ResumeSession,
    c.NoteSession,
    c.AttemptStarted,
    c.AttemptRejected,
    c.AttemptProgressed,
    c.AttemptExited,
    c.CheckpointDropped,
)


class Scheduler:
    """One of those that run leads: it consumes, places and watches. *holder* names this process (HOST/PID)
    and no other scheduler; *housekeep* is called about every hour."""

    def __init__(
        self,
        placing: Placing,
        patience: Patience,
        store: Store,
        bus: Bus,
        clock: Clock,
        holder: str,
        housekeep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._placing = placing
        self._patience = patience
        self._store = store
        self._bus = bus
        self._clock = clock
        self._lease = Lease(store, clock, holder, patience)
        self._relay = Relay(bus, store, clock, lambda: self._lease.term)
        self._housekeep = housekeep
        self.ready = asyncio.Event()

    @property
    def leading(self) -> bool:
        return self._lease.is_mine

    @property
    def term(self) -> int:
        return self._lease.term

    async def run(self) -> None:
        """Lead whenever nobody else does, for ever."""
        await self._bus.declare(topology.scheduler())
        try:
            while True:
                await self._wait_for_the_lease()
                try:
                    await self._lead()
                except* (Deposed, Fenced) as deposed:
                    log.warning("leads no more", extra={"why": str(deposed.exceptions[0])})
                self._lease.forget()
        finally:
            await self._lease.release()

    async def _wait_for_the_lease(self) -> None:
        while True:
            try:
                if await self._lease.try_take():
                    return
                self.ready.set()  # standing by is all that is asked of a second scheduler
                await self._lease.acquire()
                return
            except Unavailable as error:
                log.warning("the lease cannot be had", extra={"why": error.message})
                await self._clock.sleep(self._patience.renew)

    async def _lead(self) -> None:
        books = Books(store=self._store, relay=self._relay, lease=self._lease, clock=self._clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep(), name="scheduler: lease")
            await self._read(books)
            log.info("leads", extra={"term": self.term, "sessions": len(books.index.sessions)})
            handlers = Handlers(books, self._bus).table()
            placer = Placer(self._placing, books)
            watchman = Watchman(self._placing, self._patience, books, self._bus)
            group.create_task(self._relay.run(), name="scheduler: relay")
            group.create_task(placer.run(), name="scheduler: placer")
            group.create_task(watchman.run(), name="scheduler: watchman")
            group.create_task(Housekeeping(books, self._housekeep).run(), name="scheduler: housekeeping")
            queue = topology.scheduler()
            consumer = consume(self._bus, queue, handlers, clock=self._clock, concurrency=AT_ONCE)
            group.create_task(consumer, name="scheduler: consumer")
            self.ready.set()

    async def _read(self, books: Books) -> None:
        while True:
            try:
                return await books.read()
            except Unavailable as error:
                log.warning("reading waits", extra={"why": error.message})
            await self._clock.sleep(self._patience.renew)


class Handlers:
    """What each message does: it changes one document, or is noted."""

    def __init__(self, books: Books, bus: Bus) -> None:
        self._books = books
        self._bus = bus

    def table(self) -> Mapping[type[Message], Handler]:
        return {
            **dict.fromkeys(SESSION_MESSAGES, self.on_session),
            c.AskSession: self.on_ask,
            c.CheckpointKept: self.on_kept,
            c.CheckpointSaved: self.on_checkpoint,
            c.DropCheckpoint: self.on_checkpoint,
            c.PushDataset: self.on_dataset,
            c.RemoveDataset: self.on_dataset,
            c.DrainNode: self.on_node,
            c.ResumeNode: self.on_node,
            c.NodeReported: self.on_report,
        }

    async def on_session(self, envelope: Envelope) -> None:
        name: str = getattr(envelope.body, "session")  # noqa: B009  (each of SESSION_MESSAGES has one)
        document = await self._books.write(SESSION, name, envelope)
        if document and document.body and document.body["state"] == State.REMOVED:
            self._books.removed.put_nowait(name)

    async def on_ask(self, envelope: Envelope) -> None:
        """Pass a question on to where the session runs; the node answers."""
        message = envelope.body
        assert isinstance(message, c.AskSession)
        document = await self._books.store.load(SESSION.key(message.session))
        session = document.value(SESSION) if document else None
        if session is None or session.state is not State.RUNNING:
            raise NotRunning(
                f"{message.session} does not run.", hint=f"See 'nsml ps -a' and 'nsml why {message.session}'."
            )
        ask = c.AskAttempt(
            session=session.id,
            attempt=session.attempt,
            ask=message.ask,
            verb=message.verb,
            data=message.data,
        )
        order = Envelope(
            id=owed_id(envelope.id, session.id, session.attempt, 0),
            body=ask,
            at=envelope.at,
            cause=envelope.id,
            term=self._books.lease.term,
            to=session.slots[0].node,
        )
        await self._bus.publish(order)

    async def on_kept(self, envelope: Envelope) -> None:
        """The session remembers its latest checkpoint; one saved for a removed session goes, too."""
        message = envelope.body
        assert isinstance(message, c.CheckpointKept)
        if await self._books.write(SESSION, message.session, envelope) is None:
            document = await self._books.store.load(SESSION.key(message.session))
            if document is None or (document.body or {}).get("state") == State.REMOVED:
                self._books.removed.put_nowait(message.session)

    async def on_checkpoint(self, envelope: Envelope) -> None:
        message = envelope.body
        assert isinstance(message, c.CheckpointSaved | c.DropCheckpoint)
        name = checkpoint.name(message.session, message.checkpoint)
        await self._books.write(CHECKPOINT, name, envelope)

    async def on_dataset(self, envelope: Envelope) -> None:
        message = envelope.body
        assert isinstance(message, c.PushDataset | c.RemoveDataset)
        await self._books.write(DATASET, f"{message.owner}/{message.dataset}", envelope)

    async def on_node(self, envelope: Envelope) -> None:
        message = envelope.body
        assert isinstance(message, c.DrainNode | c.ResumeNode)
        await self._books.write(NODE, message.node, envelope)

    async def on_report(self, envelope: Envelope) -> None:
        """A heartbeat: kept in memory, written only when it tells something new of what is recorded."""
        message = envelope.body
        assert isinstance(message, c.NodeReported)
        books = self._books
        books.sights[message.node] = sight_of(message, books.clock.monotonic())
        books.cached[message.node] = frozenset(message.cached)
        node = books.index.nodes.get(message.node)
        if node is None or node.state is NodeState.LOST or _tells_news(message, node):
            await books.write(NODE, message.node, envelope)


def _tells_news(message: c.NodeReported, node: Node) -> bool:
    recorded = (node.capacity, node.boot, node.version)
    return (message.capacity, message.boot, message.version) != recorded
