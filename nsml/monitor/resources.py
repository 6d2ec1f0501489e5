"""ResourceMonitor: the node's heartbeat — what it has, what it holds, how loaded it is."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import replace

from nsml.core.catalogue import Holding, NodeReported
from nsml.core.errors import NsmlError
from nsml.core.messages import Envelope
from nsml.core.ports import Bus, Clock, GpuProbe, Reading
from nsml.core.resources import Capacity
from nsml.monitor.host import Host, boot
from nsml.settings import Settings

log = logging.getLogger("nsml.monitor")

FIRST_READING = 2.0  # seconds: so long the first beat waits, lest the node seem to have no GPU
STALE_AFTER = 2.5  # beats without a reading until the GPUs count as unhealthy: 12.5 s at the default
BETWEEN = 0.1  # seconds between beats at least: many changes at once make one beat
View = Callable[[], tuple[tuple[Holding, ...], tuple[str, ...]]]  # what the agent holds, what it caches


class ResourceMonitor:
    """Reports the node every `settings.beat` seconds, and promptly after `wake()`.

    The GPUs are read by a task of its own: a probe that hangs makes the last reading old, never a beat late.
    """

    def __init__(self, settings: Settings, probe: GpuProbe, view: View, bus: Bus, clock: Clock) -> None:
        self._settings = settings
        self._probe = probe
        self._view = view
        self._bus = bus
        self._clock = clock
        self._host = Host(settings.home)
        self._boot = boot()
        self._version = importlib.metadata.version("nsml")
        self.ready = asyncio.Event()  # set by the first beat that was heard
        self._due = asyncio.Event()
        self._read = asyncio.Event()
        self._reading = Reading()
        self._read_at = clock.monotonic()
        self._was_stale = False

    def wake(self) -> None:
        """What the node holds changed: say so now."""
        self._due.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_gpus(), name="gpus")
            group.create_task(self._wait_no_longer(), name="first reading")
            group.create_task(self._beat_for_ever(), name="heartbeat")
            group.create_task(self._tick(), name="heartbeat clock")

    async def _read_gpus(self) -> None:
        while True:
            try:
                self._reading = await self._probe.read()
                self._read_at = self._clock.monotonic()
            except NsmlError as error:
                log.warning("the GPUs cannot be read: %s", error)
            except Exception:  # a driver's bug must not end the node: its GPUs turn unhealthy instead
                log.exception("the GPUs cannot be read")
            self._read.set()
            await self._clock.sleep(self._settings.beat)

    async def _wait_no_longer(self) -> None:
        await self._clock.sleep(FIRST_READING)
        self._read.set()

    async def _tick(self) -> None:
        while True:
            self._due.set()
            await self._clock.sleep(self._settings.beat)

    async def _beat_for_ever(self) -> None:
        await self._read.wait()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._bus.publish(Envelope(body=self.report(), at=self._clock.now(), actor=self._actor))
                self.ready.set()
            except NsmlError as error:  # the next beat says it again
                log.warning("the heartbeat was not heard: %s", error)
            await self._clock.sleep(BETWEEN)

    @property
    def _actor(self) -> str:
        return f"node:{self._settings.node}"

    def report(self) -> NodeReported:
        """The heartbeat that is true now."""
        held, cached = self._view()
        reading = self._known()
        load = self._host.load()
        return NodeReported(
            node=self._settings.node,
            boot=self._boot,
            capacity=Capacity(
                gpus=reading.gpus,
                cpus=self._settings.cpus or self._host.cpus(),
                memory=self._settings.memory or self._host.memory(),
            ),
            held=held,
            cached=cached,
            loads=reading.loads,
            cpu_percent=load.cpu_percent,
            memory_used=load.memory_used,
            disk_free=load.disk_free,
            version=self._version,
        )

    def _known(self) -> Reading:
        """The last reading; with every GPU unhealthy once it is too old to be believed."""
        stale = self._clock.monotonic() - self._read_at > STALE_AFTER * self._settings.beat
        if stale != self._was_stale:
            self._was_stale = stale
            log.warning("the GPU probe %s", "hangs: its GPUs are held back" if stale else "answers again")
        if not stale:
            return self._reading
        return Reading(gpus=tuple(replace(gpu, healthy=False) for gpu in self._reading.gpus))
