from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from fakes import an_envelope, until

from nsml.bus.memory import MemoryBus
from nsml.core.catalogue import StopSession
from nsml.core.errors import Unavailable
from nsml.core.ports import Queue

ONE = Queue(name="one", bindings=("cmd.#",))
OTHER = Queue(name="other", bindings=("cmd.session.*",))
READER = Queue(name="reader", bindings=("#",), lasting=False)
STOP = an_envelope(StopSession(session="alice/mnist/1"))


async def test_publish_returns_when_every_lasting_queue_has_settled(background):
    bus = MemoryBus()
    for queue in (ONE, OTHER, READER):
        await bus.declare(queue)
    publishing = background(bus.publish(STOP))
    async with aclosing(bus.deliveries(ONE)) as ones, aclosing(bus.deliveries(OTHER)) as others:
        await (await anext(ones)).ack()
        await asyncio.sleep(0.01)
        assert not publishing.done()
        await (await anext(others)).park("no")
        await until(publishing.done)


async def test_settling_twice_counts_once(background):
    bus = MemoryBus()
    for queue in (ONE, OTHER):
        await bus.declare(queue)
    publishing = background(bus.publish(STOP))
    async with aclosing(bus.deliveries(ONE)) as ones:
        delivery = await anext(ones)
        for settle in (delivery.ack(), delivery.ack(), delivery.park("late")):
            await settle
    await asyncio.sleep(0.01)
    assert not publishing.done()
    assert list(await bus.parked()) == []


async def test_what_is_given_back_comes_first_and_in_order(background):
    bus = MemoryBus()
    await bus.declare(ONE)
    sent = [an_envelope(StopSession(session=f"alice/mnist/{n}")) for n in range(4)]
    for envelope in sent:
        background(bus.publish(envelope))
        await asyncio.sleep(0)
    async with aclosing(bus.deliveries(ONE)) as deliveries:
        for _ in range(2):
            await anext(deliveries)
    async with aclosing(bus.deliveries(ONE)) as deliveries:
        again = [(await anext(deliveries)).envelope for _ in range(4)]
    assert again == sent


async def test_a_readers_own_queue_ends_with_its_reader():
    bus = MemoryBus()
    async with aclosing(bus.deliveries(READER)) as deliveries:
        reading = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        await bus.publish(STOP)
        assert (await reading).envelope == STOP
    assert bus._boxes == {}


async def test_new_bindings_hold_for_who_reads_already():
    bus = MemoryBus()
    async with aclosing(bus.deliveries(READER)) as deliveries:
        reading = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        await bus.declare(Queue(name="reader", bindings=("evt.#",), lasting=False))
        await bus.publish(STOP)
        await bus.declare(READER)
        other = an_envelope(StopSession(session="alice/mnist/2"))
        await bus.publish(other)
        assert (await reading).envelope == other


async def test_who_waits_is_told_when_the_bus_closes():
    async with MemoryBus() as bus:
        await bus.declare(ONE)
        publishing = asyncio.ensure_future(bus.publish(STOP))
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await publishing


async def test_routes_remembered_do_not_grow_without_bound():
    bus = MemoryBus()
    await bus.declare(READER)
    for number in range(5_000):
        await bus.publish(an_envelope(StopSession(session="x"), to=f"n{number}"))
    assert len(bus._routes) <= 4_096
