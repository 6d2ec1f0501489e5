"""The scheduler on a real bus and store, with a node that only answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import until

from nsml.bus import topology
from nsml.bus.consumer import consume
from nsml.bus.memory import MemoryBus
from nsml.clock import SystemClock
from nsml.core import catalogue as c
from nsml.core.messages import Envelope, Message
from nsml.core.ports import Queue
from nsml.core.resources import Capacity, Gpu, Request
from nsml.core.session import SESSION, Session, State
from nsml.scheduler.policy import Patience, Placing
from nsml.scheduler.service import Scheduler
from nsml.store.sqlite import SqliteStore

GIB = 1 << 30


def capacity(gpus: int = 4) -> Capacity:
    made = tuple(Gpu(index=i, uuid=f"GPU-{i}", model="V100") for i in range(gpus))
    return Capacity(gpus=made, cpus=8.0, memory=32 * GIB)


@dataclass
class AnsweringNode:
    """A node without processes: says that an attempt started; ends it when the test says so, or at once."""

    bus: MemoryBus
    name: str = "n1"
    gpus: int = 4
    at_once: bool = False
    deaf: bool = False
    orders: list[Message] = field(default_factory=list)
    held: dict[tuple[str, int], bool] = field(default_factory=dict)

    async def run(self) -> None:
        handlers = dict.fromkeys((c.StartAttempt, c.StopAttempt, c.ReapAttempt, c.AskAttempt), self.on_order)
        await consume(self.bus, topology.node(self.name), handlers, clock=SystemClock(), concurrency=8)

    async def on_order(self, envelope: Envelope) -> None:
        order = envelope.body
        self.orders.append(order)
        if self.deaf:
            return
        if isinstance(order, c.StartAttempt):
            self.held[(order.session, order.attempt)] = False
            self.later.put_nowait(order)
        if isinstance(order, c.StopAttempt):
            self.later.put_nowait(order)
        if isinstance(order, c.ReapAttempt):
            self.held.pop((order.session, order.attempt), None)

    def __post_init__(self) -> None:
        self.later: asyncio.Queue[Message] = asyncio.Queue()

    async def act(self) -> None:
        while True:
            order = await self.later.get()
            if isinstance(order, c.StartAttempt):
                await self.tell(
                    c.AttemptStarted(
                        session=order.session, attempt=order.attempt, rank=order.spec.rank, node=self.name
                    )
                )
                if self.at_once:
                    await self.exit(order.session, order.attempt)
            elif isinstance(order, c.StopAttempt):
                await self.exit(order.session, order.attempt, code=143)

    async def exit(self, session: str, attempt: int, code: int = 0) -> None:
        self.held[(session, attempt)] = True
        await self.tell(c.AttemptExited(session=session, attempt=attempt, rank=0, node=self.name, code=code))

    async def report(self) -> None:
        held = tuple(
            c.Holding(session=session, attempt=attempt, ended=ended)
            for (session, attempt), ended in self.held.items()
        )
        await self.tell(c.NodeReported(node=self.name, boot="b", capacity=capacity(self.gpus), held=held))

    async def tell(self, message: Message) -> None:
        await self.bus.publish(Envelope(body=message, at=SystemClock().now(), actor=f"node:{self.name}"))


@dataclass
class Desk:
    """A scheduler at work, as a user meets it."""

    bus: MemoryBus
    store: SqliteStore
    scheduler: Scheduler
    node: AnsweringNode
    told: list[Message]

    async def ask(self, message: Message) -> None:
        await self.bus.publish(Envelope(body=message, at=SystemClock().now(), actor="user:alice"))

    async def run(self, number: int, gpus: int = 1, **changes: object) -> str:
        name = f"alice/mnist/{number}"
        request = Request(gpus=gpus)
        run = c.Run(code="0" * 64, request=request, **changes)  # type: ignore[arg-type]
        await self.ask(c.RunSession(session=name, run=run))
        return name

    async def session(self, name: str) -> Session:
        document = await self.store.load(SESSION.key(name))
        assert document
        session = document.value(SESSION)
        assert session
        return session

    async def in_state(self, name: str, state: State) -> Session:
        async def is_there() -> bool:
            return (await self.session(name)).state is state

        await until(is_there)
        return await self.session(name)

    async def queue(self) -> list[dict[str, object]]:
        document = await self.store.load("queue/main")
        return list(document.body["waiting"]) if document and document.body else []


Opening = Callable[..., object]


@asynccontextmanager
async def desk(path: Path, holder: str = "here/1", patience: Patience | None = None) -> AsyncIterator[Desk]:
    async with SqliteStore(path / "nsml.db") as store, MemoryBus() as bus:
        scheduler = Scheduler(Placing(), patience or Patience(), store, bus, SystemClock(), holder)
        node = AnsweringNode(bus)
        told: list[Message] = []

        async def listen() -> None:
            async for delivery in bus.deliveries(spy):
                told.append(delivery.envelope.body)
                await delivery.ack()

        spy = Queue(name="spy", bindings=("evt.#",), lasting=False, most=10_000)
        await bus.declare(spy)
        tasks = [asyncio.create_task(work) for work in (scheduler.run(), node.run(), node.act(), listen())]
        try:
            await scheduler.ready.wait()
            await node.report()
            yield Desk(bus, store, scheduler, node, told)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path) as opened:
        yield opened


async def test_a_session_runs_to_its_end(at: Desk) -> None:
    name = await at.run(1)
    await at.in_state(name, State.RUNNING)
    await at.node.exit(name, 1)
    session = await at.in_state(name, State.COMPLETED)
    assert session.slots == ()
    await until(lambda: c.ReapAttempt(session=name, attempt=1) in at.node.orders)


async def test_who_waits_is_told_why_and_what_would_help(at: Desk) -> None:
    await at.in_state(await at.run(1, gpus=2), State.RUNNING)
    name = await at.run(2, gpus=4)

    async def is_told() -> bool:
        return bool(await at.queue())

    await until(is_told)
    (entry,) = await at.queue()
    assert entry["session"] == name
    assert "4 GPUs wanted, largest free node has 2" in str(entry["reason"])
    assert entry["nearest"] == "with 2 GPUs instead of 4"


async def test_what_waits_starts_when_another_ends(at: Desk) -> None:
    first = await at.run(1, gpus=4)
    await at.in_state(first, State.RUNNING)
    second = await at.run(2, gpus=4)
    await at.node.exit(first, 1)
    await at.in_state(second, State.RUNNING)

    async def nobody_waits() -> bool:
        return not await at.queue()

    await until(nobody_waits)


async def test_a_session_that_is_not_to_wait_is_turned_away(at: Desk) -> None:
    await at.in_state(await at.run(1, gpus=4), State.RUNNING)
    run = c.Run(code="0" * 64, request=Request(gpus=1))
    await at.ask(c.RunSession(session="alice/mnist/2", run=run, no_queue=True))
    session = await at.in_state("alice/mnist/2", State.REMOVED)
    assert session.reason == "1 GPU wanted, none is free"


async def test_a_higher_priority_makes_a_lower_one_give_way_and_it_comes_back(at: Desk) -> None:
    low = await at.run(1, gpus=4)
    await at.in_state(low, State.RUNNING)
    high = await at.run(2, gpus=4, priority=5)
    await at.in_state(high, State.RUNNING)
    assert (await at.session(low)).state is State.QUEUED
    await at.node.exit(high, 1)
    await at.in_state(low, State.RUNNING)


async def test_a_question_reaches_the_node_of_a_running_session_only(at: Desk) -> None:
    name = await at.run(1)
    await at.in_state(name, State.RUNNING)
    await at.ask(c.AskSession(session=name, ask="q1", verb="exec", data="1+1"))
    await until(lambda: any(isinstance(order, c.AskAttempt) for order in at.node.orders))
    await at.ask(c.AskSession(session="alice/mnist/9", ask="q2", verb="exec"))
    await until(lambda: any(isinstance(m, c.CommandRejected) and m.code == "not-running" for m in at.told))


async def test_a_removed_session_takes_its_checkpoints_along(at: Desk) -> None:
    name = await at.run(1)
    await at.in_state(name, State.RUNNING)
    saved = c.CheckpointSaved(session=name, attempt=1, checkpoint="3", tree="t", bytes=1, at=5.0)
    await at.node.tell(saved)

    async def is_known() -> bool:
        return (await at.session(name)).checkpoint == "3"

    await until(is_known)
    await at.node.exit(name, 1)
    await at.in_state(name, State.COMPLETED)
    await at.ask(c.RemoveSession(session=name))
    await until(lambda: c.CheckpointDropped(session=name, checkpoint="3") in at.told)


async def test_a_drained_node_gets_nothing_until_it_takes_work_again(at: Desk) -> None:
    await at.ask(c.DrainNode(node="n1"))
    name = await at.run(1)

    async def is_told() -> bool:
        return bool(await at.queue())

    await until(is_told)
    (entry,) = await at.queue()
    assert entry["reason"] == "the node n1 is drained"
    assert entry["nearest"] == "when the node n1 takes work again"
    await at.ask(c.ResumeNode(node="n1"))
    await at.in_state(name, State.RUNNING)


async def test_what_a_node_holds_and_nobody_wants_is_ended_and_forgotten(tmp_path: Path) -> None:
    async with desk(tmp_path, patience=Patience(idle=0.02, busy=0.02, unstarted=0.05)) as at:
        at.node.held = {("bob/x/1", 1): False, ("bob/x/2", 1): True}
        await at.node.report()
        await until(lambda: c.StopAttempt(session="bob/x/1", attempt=1, grace=0.0) in at.node.orders)
        await until(lambda: c.ReapAttempt(session="bob/x/2", attempt=1) in at.node.orders)


async def test_a_start_that_did_not_arrive_is_sent_again(tmp_path: Path) -> None:
    patience = Patience(idle=0.02, busy=0.02, unstarted=0.05)
    async with desk(tmp_path, patience=patience) as at:
        name = await at.run(1)
        await at.in_state(name, State.RUNNING)
        at.node.deaf = True
        second = await at.run(2)
        await at.in_state(second, State.PLACED)

        async def is_sent_again() -> bool:
            await at.node.report()
            starts = [o for o in at.node.orders if isinstance(o, c.StartAttempt) and o.session == second]
            return len(starts) > 1 and starts[0] == starts[1]

        await until(is_sent_again)


async def test_hundreds_of_sessions_all_end(at: Desk) -> None:
    at.node.at_once = True
    names = [await at.run(n) for n in range(1, 201)]
    for name in names:
        await at.in_state(name, State.COMPLETED)
