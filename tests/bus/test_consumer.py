from __future__ import annotations

import asyncio
import itertools

import pytest
from fakes import ManualClock, an_envelope, until

from nsml.bus.consumer import Fence, consume
from nsml.bus.memory import MemoryBus
from nsml.core.catalogue import CommandRejected, ReapAttempt, SessionFailed, StopSession
from nsml.core.errors import Fenced, Refused, Unavailable
from nsml.core.ports import Queue

QUEUE = Queue(name="test", bindings=("cmd.#", "evt.session.*"))
REJECTIONS = Queue(name="rejections", bindings=("evt.command.rejected",), lasting=False)
STOP = an_envelope(StopSession(session="alice/mnist/1"))
FAILED = an_envelope(
    SessionFailed(session="s", owner="alice", attempt=1, code=3, cause="error", seconds=1, reason=""),
    actor="scheduler",
)


@pytest.fixture
async def listen(background, clock):
    """A bus whose one consumer hands what it gets to the given handlers."""

    async def start(handlers, **more) -> MemoryBus:
        bus = MemoryBus()
        await bus.declare(QUEUE)
        await bus.declare(REJECTIONS)
        background(consume(bus, QUEUE, handlers, clock=clock, **more))
        return bus

    return start


async def rejection(bus: MemoryBus):
    return (await anext(bus.deliveries(REJECTIONS))).envelope


async def test_what_is_handled_is_settled(listen):
    handled = []

    async def on_stop(envelope):
        handled.append(envelope)

    bus = await listen({StopSession: on_stop})
    await bus.publish(STOP)
    assert handled == [STOP]


async def test_what_nobody_handles_is_settled(listen):
    bus = await listen({})
    await bus.publish(STOP)
    assert list(await bus.parked()) == []


async def test_while_something_is_away_the_same_message_is_tried_again(listen, clock, background):
    tries = []

    async def on_stop(envelope):
        tries.append(clock.now())
        if len(tries) < 12:
            raise Unavailable("The store is away.")

    bus = await listen({StopSession: on_stop})
    publishing = background(bus.publish(STOP))
    await clock.run(60, step=0.05)
    await until(publishing.done)
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert waits[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4], abs=0.06)
    assert max(waits) == pytest.approx(5.0, abs=0.06)
    assert list(await bus.parked()) == []


async def test_a_refused_command_is_answered_and_settled(listen):
    async def on_stop(envelope):
        raise Refused("It has ended.", hint="See 'nsml ps -a'.")

    bus = await listen({StopSession: on_stop}, actor="node:n1")
    await bus.publish(STOP)
    told = await rejection(bus)
    assert told.body == CommandRejected(
        command="session.stop", code="refused", message="It has ended.", hint="See 'nsml ps -a'."
    )
    assert (told.cause, told.actor) == (STOP.id, "node:n1")
    assert list(await bus.parked()) == []


async def test_a_command_refused_twice_is_answered_under_one_id(listen):
    async def on_stop(envelope):
        raise Refused("It has ended.")

    bus = await listen({StopSession: on_stop})
    await bus.publish(STOP)
    await bus.publish(STOP)
    assert (await rejection(bus)).id == (await rejection(bus)).id


async def test_an_event_that_cannot_be_handled_is_parked_with_its_traceback(listen):
    async def on_failed(envelope):
        raise Refused("no rule")

    bus = await listen({SessionFailed: on_failed})
    await bus.publish(FAILED)
    ((envelope, reason),) = await bus.parked()
    assert envelope == FAILED
    assert "on_failed" in reason and "no rule" in reason


async def test_a_handler_with_a_bug_parks_its_message_and_the_next_is_handled(listen):
    handled = []

    async def on_stop(envelope):
        if not await bus.parked():
            raise KeyError("bug")
        handled.append(envelope)

    bus = await listen({StopSession: on_stop})
    await bus.publish(STOP)
    await bus.publish(STOP)
    assert handled == [STOP]
    assert "KeyError: 'bug'" in (await bus.parked())[0][1]


@pytest.mark.parametrize("actor", ["node:n1", "scheduler", "", "users:alice"])
async def test_who_may_not_send_it_is_not_heard(listen, actor):
    handled = []

    async def on_stop(envelope):
        handled.append(envelope)

    bus = await listen({StopSession: on_stop})
    await bus.publish(an_envelope(StopSession(session="alice/mnist/1"), actor=actor))
    assert handled == []
    ((_, reason),) = await bus.parked()
    assert reason == f"{actor} may not send session.stop"


async def test_commands_of_a_former_leader_are_turned_away(listen):
    handled = []

    async def on_reap(envelope):
        handled.append(envelope.term)

    bus = await listen({ReapAttempt: on_reap}, fence=Fence(), actor="node:n1")
    for term in (1, 3, 2, 3, 4):
        await bus.publish(an_envelope(ReapAttempt(session="s", attempt=1), actor="scheduler", term=term))
    assert handled == [1, 3, 3, 4]
    assert (await rejection(bus)).body.code == "fenced"


async def test_events_are_not_fenced():
    fence = Fence(term=5)
    fence.admit(FAILED)
    assert fence.term == 5


async def test_cancellation_settles_nothing(background, clock):
    bus, entered, handled = MemoryBus(), asyncio.Event(), []

    async def hangs(envelope):
        entered.set()
        await asyncio.Event().wait()

    async def works(envelope):
        handled.append(envelope)

    consumer = background(consume(bus, QUEUE, {StopSession: hangs}, clock=clock))
    await asyncio.sleep(0)
    publishing = background(bus.publish(STOP))
    await entered.wait()
    consumer.cancel()
    await asyncio.wait([consumer])
    assert not publishing.done()
    background(consume(bus, QUEUE, {StopSession: works}, clock=clock))
    await until(publishing.done)
    assert handled == [STOP]


async def test_who_no_longer_leads_leaves_the_message_to_who_does(background, clock):
    bus, handled = MemoryBus(), []

    async def deposed(envelope):
        raise Fenced("Somebody else leads.")

    async def leads(envelope):
        handled.append(envelope)

    await bus.declare(QUEUE)
    publishing = background(bus.publish(STOP))
    with pytest.raises(Fenced):
        await consume(bus, QUEUE, {StopSession: deposed}, clock=clock)
    background(consume(bus, QUEUE, {StopSession: leads}, clock=clock))
    await until(publishing.done)
    assert handled == [STOP]


async def test_one_at_a_time_unless_more_are_allowed(listen, background):
    async def most_at_once(**more) -> int:
        now, most = 0, 0

        async def on_stop(envelope):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1

        bus = await listen({StopSession: on_stop}, **more)
        await asyncio.gather(*(bus.publish(STOP) for _ in range(12)))
        return most

    assert await most_at_once() == 1
    assert await most_at_once(concurrency=4) == 4


async def test_side_by_side_cancellation_settles_nothing_either(background):
    bus, entered = MemoryBus(), []
    clock = ManualClock()

    async def hangs(envelope):
        entered.append(envelope)
        await asyncio.Event().wait()

    consumer = background(consume(bus, QUEUE, {StopSession: hangs}, clock=clock, concurrency=3))
    await asyncio.sleep(0)
    sent = [an_envelope(StopSession(session=f"alice/mnist/{n}")) for n in range(5)]
    for envelope in sent:
        background(bus.publish(envelope))
    await until(lambda: len(entered) == 3)
    consumer.cancel()
    await asyncio.wait([consumer])
    deliveries = bus.deliveries(QUEUE)
    assert [(await anext(deliveries)).envelope for _ in range(5)] == sent
