from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes import an_envelope, until

from nsml.bus.memory import MemoryBus
from nsml.bus.relay import Relay
from nsml.core.catalogue import ReapAttempt, SessionQueued
from nsml.core.errors import Unavailable
from nsml.core.ports import Queue
from nsml.core.subject import Document

EVENTS = Queue(name="events", bindings=("evt.#",), lasting=False)


def a_debtor(*messages, name: str = "alice/mnist/1", version: int = 1) -> Document:
    owed = tuple(an_envelope(body, actor="scheduler", version=version, to=to) for body, to in messages)
    return Document(key=f"session/{name}", body={}, version=version, owed=owed)


def told(number: int = 1):
    return SessionQueued(session=f"alice/mnist/{number}", owner="alice"), ""


def reap(node: str):
    return ReapAttempt(session="alice/mnist/1", attempt=1), node


class Flaky(MemoryBus):
    """A memory bus that can be away."""

    away = False

    async def publish(self, envelope):
        if self.away:
            raise Unavailable("The bus is away.")
        await super().publish(envelope)


@pytest.fixture
async def bus():
    async with Flaky() as opened:
        await opened.declare(EVENTS)
        yield opened


@pytest.fixture
def relay(bus, store, clock):
    return Relay(bus, store, clock, lambda: 7)


async def owes_nothing(store) -> bool:
    return not await store.owing()


async def test_what_a_document_owes_is_published_and_then_settled(relay, bus, store, background):
    document = a_debtor(told(1), told(2))
    background(relay.run())
    await store.commit(document)
    relay.owe(document)
    deliveries = bus.deliveries(EVENTS)
    published = [(await anext(deliveries)).envelope for _ in range(2)]
    assert published == [replace(envelope, term=7) for envelope in document.owed]
    await until(lambda: owes_nothing(store))


async def test_what_a_former_process_owed_is_found_at_the_start(relay, bus, store, background):
    await store.commit(a_debtor(told()))
    background(relay.run())
    await anext(bus.deliveries(EVENTS))
    await until(lambda: owes_nothing(store))


async def test_what_nobody_reported_is_found_by_the_next_scan(relay, bus, store, clock, background):
    background(relay.run())
    await until(lambda: clock.sleepers)
    await store.commit(a_debtor(told()))
    await clock.run(11)
    await anext(bus.deliveries(EVENTS))
    await until(lambda: owes_nothing(store))


async def test_a_wake_up_makes_it_look_now(relay, store, clock, background):
    background(relay.run())
    await until(lambda: clock.sleepers)
    await store.commit(a_debtor(told()))
    relay.wake()
    await until(lambda: owes_nothing(store))


async def test_a_slow_reader_holds_back_only_what_it_is_to_read(relay, bus, store, background):
    await bus.declare(Queue(name="n1", bindings=("cmd.attempt.*.n1",)))
    document = a_debtor(reap("n1"), told())
    background(relay.run())
    await store.commit(document)
    relay.owe(document)

    async def only_the_slow_one_is_owed() -> bool:
        return [d.owed for d in await store.owing()] == [document.owed[:1]]

    await until(only_the_slow_one_is_owed)
    delivery = await anext(bus.deliveries(Queue(name="n1", bindings=("cmd.attempt.*.n1",))))
    await delivery.ack()
    await until(lambda: owes_nothing(store))


async def test_what_is_being_published_is_not_published_again(relay, bus, store, clock, background):
    queue = Queue(name="n1", bindings=("cmd.attempt.*.n1",))
    await bus.declare(queue)
    document = a_debtor(reap("n1"))
    await store.commit(document)
    background(relay.run())
    relay.owe(document)
    await clock.run(60)
    deliveries = bus.deliveries(queue)
    await (await anext(deliveries)).ack()
    await until(lambda: owes_nothing(store))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(deliveries)


async def test_while_the_bus_is_away_it_goes_on_trying(relay, bus, store, clock, background):
    bus.away = True
    document = a_debtor(told())
    await store.commit(document)
    background(relay.run())
    await clock.run(60)
    assert not await owes_nothing(store)
    bus.away = False
    await clock.run(6)
    await until(lambda: owes_nothing(store))


async def test_earlier_debts_are_not_published_again_with_a_new_version(relay, bus, store, background):
    background(relay.run())
    first = a_debtor(told(1))
    second = replace(a_debtor(told(2), version=2), key=first.key)
    await store.commit(first)
    await store.commit(replace(second, owed=(*first.owed, *second.owed)))
    relay.owe(first)
    relay.owe(replace(second, owed=(*first.owed, *second.owed)))
    deliveries = bus.deliveries(EVENTS)
    published = {(await anext(deliveries)).envelope.id for _ in range(2)}
    assert published == {first.owed[0].id, second.owed[0].id}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(deliveries)


async def test_cut_off_and_run_again_it_publishes_what_is_not_settled(relay, bus, store, background):
    queue = Queue(name="n1", bindings=("cmd.attempt.*.n1",))
    await bus.declare(queue)
    document = a_debtor(reap("n1"))
    await store.commit(document)
    running = background(relay.run())
    deliveries = bus.deliveries(queue)
    held = await anext(deliveries)
    running.cancel()
    await asyncio.wait([running])
    background(relay.run())
    again = await anext(deliveries)
    assert again.envelope == held.envelope
    await held.ack()
    await again.ack()
    await until(lambda: owes_nothing(store))


async def test_many_debts_of_one_document_are_settled_together(bus, store, clock, background):
    settled = []

    class Counting(type(store)):
        async def settle(self, key, ids):
            settled.append(ids)
            await super().settle(key, ids)

    store.__class__ = Counting
    relay = Relay(bus, store, clock, lambda: 1)
    background(relay.run())
    document = a_debtor(*(told(n) for n in range(100)))
    await store.commit(document)
    relay.owe(document)
    await until(lambda: owes_nothing(store))
    assert len(settled) <= 3
