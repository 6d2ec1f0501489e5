"""What every bus promises."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from fakes import an_envelope, until

from nsml.core.catalogue import LogGrew, SessionFailed, SessionQueued, StopSession
from nsml.core.errors import Unavailable
from nsml.core.messages import Envelope
from nsml.core.ports import Bus, Delivery, Queue

STOPS = Queue(name="test.stops", bindings=("cmd.session.stop",))
COMMANDS = Queue(name="test.commands", bindings=("cmd.#",))
EVENTS = Queue(name="test.events", bindings=("evt.session.*",))
READER = Queue(name="test.reader", bindings=("#",), lasting=False, most=3)


def a_stop(session: str = "alice/mnist/1") -> Envelope:
    return an_envelope(StopSession(session=session))


async def take(bus: Bus, queue: Queue, count: int) -> list[Envelope]:
    """Receive and settle *count* messages."""
    taken: list[Envelope] = []
    async with aclosing(bus.deliveries(queue)) as deliveries:
        async for delivery in deliveries:
            taken.append(delivery.envelope)
            await delivery.ack()
            if len(taken) == count:
                break
    return taken


async def first(bus: Bus, queue: Queue) -> tuple[Delivery, object]:
    """The first delivery, unsettled, and what keeps it from going back."""
    deliveries = bus.deliveries(queue)
    return await anext(deliveries), deliveries


async def test_a_message_reaches_every_queue_that_its_route_fits(bus, background):
    for queue in (STOPS, COMMANDS, EVENTS):
        await bus.declare(queue)
    sent = a_stop()
    background(bus.publish(sent))
    assert await take(bus, STOPS, 1) == [sent]
    assert await take(bus, COMMANDS, 1) == [sent]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await take(bus, EVENTS, 1)


async def test_an_envelope_arrives_as_it_was_sent(bus, background):
    await bus.declare(Queue(name="test.logs", bindings=("tel.#",)))
    grew = LogGrew(session="alice/mnist/1", stream="log/alice/mnist/1/1", offset=7, data=bytes(range(256)))
    sent = an_envelope(grew, actor="node:n1", cause="ab", version=3, term=2, to="")
    background(bus.publish(sent))
    assert await take(bus, Queue(name="test.logs", bindings=("tel.#",)), 1) == [sent]


async def test_a_message_to_nobody_is_fine(bus):
    await bus.publish(a_stop())


async def test_what_was_sent_while_nobody_listened_is_delivered_later(bus, background):
    await bus.declare(STOPS)
    sent = [a_stop(f"alice/mnist/{number}") for number in range(20)]
    for envelope in sent:
        background(bus.publish(envelope))
    await asyncio.sleep(0)
    taken = await take(bus, STOPS, 20)
    assert sorted(e.id for e in taken) == sorted(e.id for e in sent)


async def test_what_a_dead_consumer_held_is_delivered_again(bus, background):
    await bus.declare(STOPS)
    sent = [a_stop("alice/mnist/1"), a_stop("alice/mnist/2")]
    for envelope in sent:
        background(bus.publish(envelope))

    async def dies() -> None:
        async with aclosing(bus.deliveries(STOPS)) as deliveries:
            async for _ in deliveries:
                await asyncio.Event().wait()

    consumer = background(dies())
    await asyncio.sleep(0.05)
    consumer.cancel()
    await asyncio.wait([consumer])
    assert {e.id for e in await take(bus, STOPS, 2)} == {e.id for e in sent}


async def test_what_is_settled_is_not_delivered_again(bus, background):
    await bus.declare(STOPS)
    background(bus.publish(a_stop()))
    await take(bus, STOPS, 1)
    after = a_stop("alice/mnist/2")
    background(bus.publish(after))
    assert await take(bus, STOPS, 1) == [after]


async def test_what_is_parked_lands_with_the_dead_and_nothing_behind_it_waits(bus, background):
    await bus.declare(STOPS)
    bad, good = a_stop("alice/mnist/1"), a_stop("alice/mnist/2")
    publishing = background(bus.publish(bad))
    async with aclosing(bus.deliveries(STOPS)) as deliveries:
        delivery = await anext(deliveries)
        await delivery.park("it cannot be handled")
        await publishing
        background(bus.publish(good))
        behind = await anext(deliveries)
        assert behind.envelope == good
        await behind.ack()

    async def there() -> bool:
        return list(await bus.parked()) == [(bad, "it cannot be handled")]

    await until(there)


async def test_consumers_of_one_queue_share_its_messages(bus, background):
    await bus.declare(STOPS)
    taken: list[str] = []

    async def consumer() -> None:
        async with aclosing(bus.deliveries(STOPS)) as deliveries:
            async for delivery in deliveries:
                taken.append(delivery.envelope.id)
                await delivery.ack()

    for _ in range(3):
        background(consumer())
    sent = [a_stop(f"alice/mnist/{number}") for number in range(100)]
    await asyncio.gather(*(bus.publish(envelope) for envelope in sent))
    await until(lambda: len(taken) == 100)
    assert sorted(taken) == sorted(e.id for e in sent)


async def test_declaring_again_keeps_what_waits(bus, background):
    await bus.declare(STOPS)
    sent = a_stop()
    background(bus.publish(sent))
    await asyncio.sleep(0)
    await bus.declare(STOPS)
    assert await take(bus, STOPS, 1) == [sent]


async def test_a_cancelled_publish_harms_nobody(bus, background):
    await bus.declare(STOPS)
    publishing = background(bus.publish(a_stop("alice/mnist/1")))
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.wait([publishing])
    after = a_stop("alice/mnist/2")
    background(bus.publish(after))

    async def arrived() -> None:
        async with aclosing(bus.deliveries(STOPS)) as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                if delivery.envelope == after:
                    return

    async with asyncio.timeout(5):
        await arrived()


async def test_a_reader_of_its_own_queue_holds_up_no_sender_and_loses_the_oldest(bus):
    await bus.declare(READER)
    sent = [
        an_envelope(SessionQueued(session=f"alice/mnist/{number}", owner="alice"), actor="scheduler")
        for number in range(10)
    ]
    async with asyncio.timeout(5):
        for envelope in sent:
            await bus.publish(envelope)
    assert await take(bus, READER, 3) == sent[-3:]


async def test_a_late_reader_sees_what_comes_from_now_on(bus, background):
    await bus.publish(an_envelope(SessionQueued(session="alice/mnist/1", owner="alice"), actor="scheduler"))
    await bus.declare(READER)
    failed = SessionFailed(
        session="alice/mnist/1", owner="alice", attempt=1, code=3, cause="error", seconds=1.0, reason=""
    )
    sent = an_envelope(failed, actor="scheduler")
    await bus.publish(sent)
    assert await take(bus, READER, 1) == [sent]


async def test_a_closed_bus_says_so(bus):
    await bus.ping()
    await bus.__aexit__(None, None, None)
    with pytest.raises(Unavailable):
        await bus.publish(a_stop())
    with pytest.raises(Unavailable):
        await bus.ping()
