"""Heartbeats: regular, prompt after a change, and never held up by a probe."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes import ManualClock, until
from services import running

from nsml.core.catalogue import Holding, NodeReported
from nsml.core.errors import Unavailable
from nsml.core.ports import Queue, Reading
from nsml.core.resources import GIB
from nsml.monitor.resources import FIRST_READING, ResourceMonitor
from nsml.monitor.static import StaticProbe
from nsml.settings import Settings

HEARD = Queue(name="heard", bindings=("evt.node.reported",))


class Scheduler:
    """Hears heartbeats, and can be away."""

    def __init__(self, bus) -> None:
        self._bus = bus
        self.heard: list[NodeReported] = []
        self.actors: set[str] = set()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        await self._bus.declare(HEARD)
        self.ready.set()
        async for delivery in self._bus.deliveries(HEARD):
            self.heard.append(delivery.envelope.body)
            self.actors.add(delivery.envelope.actor)
            await delivery.ack()


class Probe(StaticProbe):
    """A probe of two GPUs that can hang or fail."""

    def __init__(self) -> None:
        super().__init__("static:2", "n1")
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None

    async def read(self) -> Reading:
        await self.answers.wait()
        if self.error:
            raise self.error
        return await super().read()


class World:
    def __init__(self, settings, bus, clock) -> None:
        self.clock: ManualClock = clock
        self.probe = Probe()
        self.scheduler = Scheduler(bus)
        self.held: tuple[Holding, ...] = ()
        self.settings = settings
        self.bus = bus
        self.monitor = self.a_monitor()

    def a_monitor(self, **changes) -> ResourceMonitor:
        settings = replace(self.settings, **changes)
        return ResourceMonitor(settings, self.probe, lambda: (self.held, ("tree",)), self.bus, self.clock)

    @property
    def last(self) -> NodeReported:
        return self.scheduler.heard[-1]

    async def beats(self, count: int) -> None:
        await until(lambda: len(self.scheduler.heard) >= count)

    async def quiet(self, seconds: float) -> int:
        """How many beats are heard while *seconds* pass."""
        before = len(self.scheduler.heard)
        await self.clock.run(seconds, step=0.05)
        return len(self.scheduler.heard) - before


@pytest.fixture
def world(tmp_path, bus, clock) -> World:
    return World(Settings(home=tmp_path, node="n1", beat=5.0), bus, clock)


async def test_the_first_beat_comes_at_once_and_tells_everything(world):
    world.held = (Holding(session="a/b/1", attempt=1),)
    async with running(world.scheduler, world.monitor):
        await world.beats(1)
    report = world.last
    assert (report.node, report.held, report.cached) == ("n1", world.held, ("tree",))
    assert [gpu.index for gpu in report.capacity.gpus] == [0, 1]
    assert len(report.loads) == 2 and report.boot and report.version
    assert report.capacity.cpus > 0 and report.capacity.memory > 0
    assert report.memory_used and report.disk_free
    assert world.scheduler.actors == {"node:n1"}
    assert world.clock.monotonic() == 0.0


async def test_it_beats_every_so_often(world):
    async with running(world.scheduler, world.monitor):
        await world.beats(1)
        assert await world.quiet(4.5) == 0
        assert await world.quiet(21.0) == 5
    assert world.last.cpu_percent is not None


async def test_what_the_settings_say_goes_before_what_the_machine_has(world):
    monitor = world.a_monitor(cpus=2.5, memory=3 * GIB)
    assert (monitor.report().capacity.cpus, monitor.report().capacity.memory) == (2.5, 3 * GIB)


async def test_a_change_is_told_promptly_and_many_at_once_as_one(world):
    async with running(world.scheduler, world.monitor):
        await world.beats(1)
        await world.quiet(1.0)
        world.held = (Holding(session="a/b/1", attempt=1),)
        for _ in range(100):
            world.monitor.wake()
        assert await world.quiet(0.2) == 1
        assert world.last.held == world.held
        assert await world.quiet(1.0) == 0


async def test_a_stream_of_changes_does_not_become_a_flood_of_beats(world):
    async with running(world.scheduler, world.monitor):
        await world.beats(1)
        before = len(world.scheduler.heard)
        for _ in range(100):
            world.monitor.wake()
            await world.clock.run(0.01, step=0.01)
        assert len(world.scheduler.heard) - before <= 12


async def test_a_hung_probe_never_stops_the_heartbeat_and_turns_the_gpus_unhealthy(world):
    async with running(world.scheduler, world.monitor):
        await world.beats(1)
        world.probe.answers.clear()
        assert await world.quiet(10.5) == 2
        assert all(gpu.healthy for gpu in world.last.capacity.gpus)  # the last reading is still fresh enough
        assert await world.quiet(10.0) == 2
        assert [gpu.healthy for gpu in world.last.capacity.gpus] == [False, False]
        assert world.last.loads == ()
        world.probe.answers.set()
        await world.quiet(10.0)
        assert all(gpu.healthy for gpu in world.last.capacity.gpus) and len(world.last.loads) == 2


async def test_a_probe_that_hangs_from_the_start_delays_the_first_beat_a_little_only(world):
    world.probe.answers.clear()
    async with running(world.scheduler):
        task = asyncio.create_task(world.monitor.run())
        assert await world.quiet(FIRST_READING - 0.1) == 0
        assert await world.quiet(0.2) == 1
        assert world.last.capacity.gpus == () and world.last.capacity.cpus > 0
        world.probe.answers.set()
        await world.quiet(6.0)
        assert len(world.last.capacity.gpus) == 2
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("error", [Unavailable("no driver"), RuntimeError("bug")])
async def test_a_probe_that_fails_never_stops_the_heartbeat(world, error):
    async with running(world.scheduler, world.monitor):
        await world.beats(1)
        world.probe.error = error
        assert await world.quiet(20.5) == 4
        assert [gpu.healthy for gpu in world.last.capacity.gpus] == [False, False]
        world.probe.error = None
        await world.quiet(10.0)
        assert all(gpu.healthy for gpu in world.last.capacity.gpus)


async def test_a_bus_that_is_away_is_told_later(world, monkeypatch):
    away = True
    publish = world.bus.publish

    async def sometimes(envelope):
        if away:
            raise Unavailable("The bus is away.")
        await publish(envelope)

    monkeypatch.setattr(world.bus, "publish", sometimes)
    async with running(world.scheduler):
        task = asyncio.create_task(world.monitor.run())
        assert await world.quiet(11.0) == 0 and not world.monitor.ready.is_set()
        away = False
        assert await world.quiet(5.0) == 1 and world.monitor.ready.is_set()
        task.cancel()
        await asyncio.wait([task])
