"""What RabbitBus does when the broker, a connection, a queue or a reader ends; on a real broker each time."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import aclosing

import brokers
import pytest
from fakes import an_envelope, until

from nsml.core.catalogue import StopSession
from nsml.core.errors import BadInput, Damaged, NotAllowed, Unavailable
from nsml.core.messages import Envelope
from nsml.core.ports import Queue

STOPS = Queue(name="test.stops", bindings=("cmd.session.stop",))


def a_stop(session: str = "alice/mnist/1") -> Envelope:
    return an_envelope(StopSession(session=session))


@pytest.fixture
async def bus(tmp_path):
    async with brokers.a_bus(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Broker]:
    """A broker of our own; the one that other tests use is never hurt."""
    brokers.url()  # skips, or fails when it is required
    if not brokers.is_installed():
        pytest.skip("rabbitmq-server is not installed here, so none can be killed")
    own = brokers.Broker(tmp_path_factory.mktemp("servers"))
    yield own
    own.down()


def on(broker: brokers.Broker, **options: float) -> brokers.Swept:
    return brokers.Swept(broker.url, brokers.a_cluster(), **options)


async def collect(bus, queue: Queue, into: list[str]) -> None:
    """Take and settle for ever."""
    async with aclosing(bus.deliveries(queue)) as deliveries:
        async for delivery in deliveries:
            into.append(delivery.envelope.body.session)
            await delivery.ack()


async def test_a_broker_killed_while_it_is_published_to_loses_no_confirmed_message(broker, background):
    taken: list[str] = []
    confirmed: list[str] = []

    async def publishes(bus, writer: int) -> None:
        for number in range(1_000_000):
            await bus.publish(a_stop(f"alice/w{writer}/{number}"))
            confirmed.append(f"alice/w{writer}/{number}")
            await asyncio.sleep(0.01)

    async with on(broker, deadline=30) as bus, on(broker, deadline=0.5) as hasty:
        await bus.declare(STOPS)
        background(collect(bus, STOPS, taken))
        writers = [background(publishes(bus, writer)) for writer in range(8)]
        await until(lambda: len(confirmed) > 1_000, timeout=15)
        broker.send(signal.SIGKILL)
        with pytest.raises(Unavailable):
            await hasty.publish(a_stop())
        with pytest.raises(Unavailable, match="away"):
            await hasty.ping()
        await asyncio.to_thread(broker.up)
        before = len(confirmed)
        await until(lambda: len(confirmed) > before + 200, timeout=15)
        for writer in writers:
            writer.cancel()
        await asyncio.wait(writers)
        await until(lambda: set(confirmed) <= set(taken), timeout=10)
        await bus.ping()
        await hasty.publish(a_stop())


async def test_a_frozen_broker_is_unavailable_and_goes_on_when_it_wakes(broker, background):
    taken: list[str] = []
    async with on(broker, deadline=1) as bus:
        await bus.declare(STOPS)
        background(collect(bus, STOPS, taken))
        broker.send(signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable):
                await bus.publish(a_stop("alice/mnist/1"))
            with pytest.raises(Unavailable):
                await bus.ping()
        finally:
            broker.send(signal.SIGCONT)
        await bus.publish(a_stop("alice/mnist/2"))
        await until(lambda: "alice/mnist/2" in taken)


async def test_connections_closed_by_an_operator_come_back_and_what_was_held_is_delivered_again(
    broker, background
):
    async with on(broker) as bus:
        await bus.declare(STOPS)
        await bus.publish(a_stop("alice/mnist/1"))
        async with aclosing(bus.deliveries(STOPS)) as deliveries:
            held = await anext(deliveries)
            await asyncio.to_thread(broker.ctl, "close_all_connections", "--global", "maintenance")
            await bus.publish(a_stop("alice/mnist/2"))
            again = [await anext(deliveries), await anext(deliveries)]
            assert {d.envelope.body.session for d in again} == {"alice/mnist/1", "alice/mnist/2"}
            await held.ack()  # of a channel that is gone: no error, and no effect
            for delivery in again:
                await delivery.ack()


async def test_a_queue_that_an_operator_deleted_is_there_again(bus, background):
    taken: list[str] = []
    await bus.declare(STOPS)
    background(collect(bus, STOPS, taken))
    await bus.publish(a_stop("alice/mnist/1"))
    await until(lambda: taken)
    async with bus._in.another() as channel:
        await channel.queue_delete(f"{bus._cluster}:{STOPS.name}")

    async def heard() -> bool:
        await bus.publish(a_stop("alice/mnist/2"))
        await asyncio.sleep(0.05)
        return "alice/mnist/2" in taken

    await until(heard)


async def test_what_a_killed_process_held_is_delivered_again(bus, tmp_path):
    await bus.declare(STOPS)
    sent = [a_stop(f"alice/mnist/{number}") for number in range(20)]
    await asyncio.gather(*(bus.publish(envelope) for envelope in sent))
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, brokers.url(), bus._cluster, stdout=asyncio.subprocess.PIPE
    )
    assert reader.stdout is not None
    assert await reader.stdout.readline() == b"held\n"
    reader.kill()
    await reader.wait()
    taken: list[str] = []
    collecting = asyncio.create_task(collect(bus, STOPS, taken))
    await until(lambda: len(taken) == 20)
    collecting.cancel()
    assert sorted(taken) == sorted(e.body.session for e in sent)


READER = """
import asyncio, sys
from nsml.bus.rabbit import RabbitBus
from nsml.clock import SystemClock
from nsml.core.ports import Queue
async def main():
    async with RabbitBus(sys.argv[1], sys.argv[2], SystemClock()) as bus:
        queue = Queue(name="test.stops", bindings=("cmd.session.stop",))
        held = 0
        async for delivery in bus.deliveries(queue):
            held += 1
            if held == 20:
                print("held", flush=True)
asyncio.run(main())
"""


async def test_a_message_that_ends_its_reader_every_time_is_parked_and_others_go_on(bus):
    await bus.declare(STOPS)
    poison, good = a_stop("alice/mnist/1"), a_stop("alice/mnist/2")
    await bus.publish(poison)
    alone = Queue(name=STOPS.name, bindings=STOPS.bindings, ahead=1)
    for _ in range(21):
        async with aclosing(bus.deliveries(alone)) as deliveries:
            assert (await anext(deliveries)).envelope == poison
    await bus.publish(good)
    async with aclosing(bus.deliveries(alone)) as deliveries:
        delivery = await anext(deliveries)
        assert delivery.envelope == good
        await delivery.ack()
    parked = await until(bus.parked)
    assert [envelope for envelope, _ in parked] == [poison]
    assert "never settled" in parked[0][1]


async def test_bytes_that_are_no_message_hold_nothing_up(bus):
    await bus.declare(STOPS)
    async with bus._in.another() as channel:
        from aio_pika import Message

        exchange = await channel.get_exchange(f"{bus._cluster}:nsml")
        await exchange.publish(Message(b"\xff no message"), "cmd.session.stop")
    await bus.publish(a_stop())
    async with aclosing(bus.deliveries(STOPS)) as deliveries:
        delivery = await anext(deliveries)
        assert delivery.envelope.body.session == "alice/mnist/1"
        await delivery.ack()
    assert await bus.parked() == []


async def test_looking_at_the_dead_takes_none_away(bus):
    await bus.declare(STOPS)
    sent = [a_stop(f"alice/mnist/{number}") for number in range(30)]
    for envelope in sent:
        await bus.publish(envelope)
    async with aclosing(bus.deliveries(STOPS)) as deliveries:
        for _ in sent:
            await (await anext(deliveries)).park("x" * 50_000)
    for _ in range(3):
        parked = await bus.parked()
        assert [envelope for envelope, _ in parked] == sent
        assert {len(reason) for _, reason in parked} == {16_000}


async def test_two_clusters_on_one_broker_hear_nothing_of_each_other(bus, tmp_path):
    async with brokers.Swept(brokers.url(), brokers.a_cluster()) as other:
        await bus.declare(STOPS)
        await other.declare(STOPS)
        await bus.publish(a_stop("alice/mnist/1"))
        await other.publish(a_stop("alice/mnist/2"))
        for one, session in ((bus, "alice/mnist/1"), (other, "alice/mnist/2")):
            taken: list[str] = []
            collecting = asyncio.create_task(collect(one, STOPS, taken))
            await asyncio.sleep(0.2)
            collecting.cancel()
            assert taken == [session]


async def test_a_server_that_is_gone_is_passed_over_for_the_next(tmp_path):
    urls = f"amqp://127.0.0.1:1/nsml,{brokers.url()}"
    for _ in range(3):
        async with brokers.Swept(urls, brokers.a_cluster()) as bus:
            bus._where = brokers.url()
            await bus.publish(a_stop())


async def test_a_queue_of_another_kind_is_named(bus):
    async with bus._in.another() as channel:
        await channel.declare_queue(f"{bus._cluster}:{STOPS.name}", durable=True)
    with pytest.raises(Damaged, match=r"test\.stops"):
        await bus.declare(STOPS)
    await bus.publish(a_stop())


async def test_a_wrong_password_or_virtual_host_is_said_and_the_password_is_not():
    right = brokers.url()
    password = right.partition("nsml:")[2].partition("@")[0]
    for wrong in (right.replace(password, "open-sesame"), right.rpartition("/")[0] + "/elsewhere"):
        with pytest.raises(NotAllowed) as told:
            await brokers.Swept(wrong, "test").bus.__aenter__()
        assert "user 'nsml'" in told.value.message
        assert password not in told.value.message and "open-sesame" not in told.value.message


async def test_no_server_at_all_is_said_within_the_deadline():
    brokers.url()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await brokers.Swept("amqp://a:b@127.0.0.1:1/nsml", "test", deadline=0.5).bus.__aenter__()


@pytest.mark.parametrize("url", ["amqp:", "amqp://", "amqp://host:port/", "http://host", "amqp://a, "])
def test_an_address_that_is_none_is_said(url):
    pytest.importorskip("aio_pika")
    with pytest.raises(BadInput, match="NSML_BUS"):
        brokers.Swept(url, "test")
