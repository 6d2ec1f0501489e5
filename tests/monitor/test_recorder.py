"""The recorder writes each byte once, in order, and drops what was removed."""

from __future__ import annotations

import asyncio

import pytest
from fakes import until
from services import running

from nsml.core import catalogue as c
from nsml.core.errors import Unavailable
from nsml.core.messages import Envelope
from nsml.monitor.recorder import GAP_PATIENCE, INDEX, Recorder

SESSION = "alice/mnist/1"
LOG = f"log/{SESSION}/1"
INDEX_OF_LOG = f"log.at/{SESSION}/1"


@pytest.fixture
def recorder(streams, bus, clock):
    return Recorder(streams, bus, clock)


def grew(data: bytes, offset: int = 0, stream: str = LOG, at: float = 100.0) -> Envelope:
    kind, session = stream.partition("/")[0], stream.partition("/")[2].rpartition("/")[0]
    cls = c.OutboxGrew if kind == "outbox" else c.LogGrew
    return Envelope(
        body=cls(session=session, stream=stream, offset=offset, data=data), at=at, actor="node:n1"
    )


def removed(session: str) -> Envelope:
    return Envelope(body=c.SessionRemoved(session=session, owner="alice", attempts=1), at=200.0)


async def index(streams) -> list[tuple[int, float]]:
    return list(INDEX.iter_unpack(await streams.read(INDEX_OF_LOG, 0, 1 << 20)))


@pytest.mark.parametrize("kind", ["log", "log.err", "build", "outbox"])
async def test_every_kind_of_telemetry_becomes_a_stream(recorder, bus, streams, kind):
    async with running(recorder):
        await bus.publish(grew(b"one\0", stream=f"{kind}/{SESSION}/1"))
        await bus.publish(grew(b"two\xff", offset=4, stream=f"{kind}/{SESSION}/1"))
        assert await streams.read(f"{kind}/{SESSION}/1", 0, 100) == b"one\0two\xff"


async def test_what_comes_twice_is_there_once(recorder, bus, streams):
    async with running(recorder):
        for envelope in [first := grew(b"one"), first, grew(b"onetwo"), grew(b"two", offset=3)]:
            await bus.publish(envelope)
        assert await streams.read(LOG, 0, 100) == b"onetwo"


async def test_what_comes_too_early_waits_for_what_is_before_it(recorder, bus, streams, clock):
    async with running(recorder):
        early = asyncio.create_task(bus.publish(grew(b"two", offset=3)))
        await until(lambda: clock.sleepers)
        other = grew(b"x", stream="log/alice/mnist/2/1")
        await bus.publish(other)  # nobody else waits for it
        await bus.publish(grew(b"one"))
        await clock.run(2.0, step=0.1)
        await asyncio.wait_for(early, 5)
        assert await streams.read(LOG, 0, 100) == b"onetwo"


async def test_what_waits_for_lost_bytes_is_parked_in_the_end(recorder, bus, streams, clock):
    async with running(recorder):
        early = asyncio.create_task(bus.publish(grew(b"two", offset=3)))

        async def parked():
            await clock.run(1.0)
            return await bus.parked()

        ((envelope, reason),) = await until(parked)
        assert envelope.body.offset == 3 and "gap" in reason and clock.monotonic() >= GAP_PATIENCE
        await early
        assert await streams.size(LOG) == 0


async def test_the_index_says_when_the_log_reached_which_byte(recorder, bus, streams):
    async with running(recorder):
        for n, at in enumerate([100.0, 100.5, 101.0, 101.9, 102.1]):
            await bus.publish(grew(b"0123456789", offset=10 * n, at=at))
    assert await index(streams) == [(0, 100.0), (20, 101.0), (40, 102.1)]


async def test_the_index_goes_on_after_a_restart_and_notes_nothing_twice(recorder, bus, streams, clock):
    pieces = [grew(b"0123456789", offset=10 * n, at=100.0 + n) for n in range(4)]
    async with running(recorder):
        for piece in pieces[:2]:
            await bus.publish(piece)
    async with running(Recorder(streams, bus, clock)):
        for piece in [*pieces[:2], *pieces]:
            await bus.publish(piece)
    assert await index(streams) == [(10 * n, 100.0 + n) for n in range(4)]


async def test_only_the_log_itself_has_an_index(recorder, bus, streams):
    async with running(recorder):
        for kind in ("log.err", "build", "outbox"):
            await bus.publish(grew(b"x", stream=f"{kind}/{SESSION}/1"))
        assert await streams.find("log.at/") == []


async def test_a_removed_session_leaves_nothing_and_its_neighbours_everything(recorder, bus, streams):
    kinds = ("log", "log.err", "build", "outbox")
    async with running(recorder):
        for session in (SESSION, "alice/mnist/12", "malice/mnist/1", "alice/mnist2/1"):
            for kind in kinds:
                await bus.publish(grew(b"x", stream=f"{kind}/{session}/1"))
        await bus.publish(grew(b"x", stream=f"outbox/{SESSION}/2.r1.p77"))
        await bus.publish(removed(SESSION))
        left = await streams.find("")
    assert not [name for name in left if f"/{SESSION}/" in f"/{name.partition('/')[2]}"]
    assert len(left) == 3 * (len(kinds) + 1)  # an index beside each log


async def test_what_comes_after_the_removal_does_not_bring_the_session_back(recorder, bus, streams):
    async with running(recorder):
        await bus.publish(grew(b"one"))
        await bus.publish(removed(SESSION))
        await bus.publish(grew(b"two", offset=3))
        await bus.publish(grew(b"one"))
        assert await streams.find("") == []


async def test_a_disk_that_is_full_for_a_while_loses_nothing(streams, bus, clock):
    class Full:
        """Streams that refuse the first appends."""

        def __init__(self) -> None:
            self.refusals = 3

        async def append(self, *args):
            if self.refusals:
                self.refusals -= 1
                raise Unavailable("The disk is full.")
            await streams.append(*args)

        def __getattr__(self, name):
            return getattr(streams, name)

    async with running(Recorder(Full(), bus, clock)):
        sent = asyncio.create_task(bus.publish(grew(b"one")))
        await until(lambda: clock.sleepers)
        await clock.run(5.0, step=0.1)
        await asyncio.wait_for(sent, 5)
        assert await streams.read(LOG, 0, 10) == b"one" and not await bus.parked()


async def test_memory_does_not_grow_with_the_number_of_logs(recorder, bus, streams, monkeypatch):
    monkeypatch.setattr("nsml.monitor.recorder.MOST_LOGS", 8)
    async with running(recorder):
        for n in range(50):
            await bus.publish(grew(b"x", stream=f"log/alice/mnist/{n}/1"))
        assert len(recorder._indexes) == 8 and not recorder._gaps
