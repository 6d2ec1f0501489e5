"""Where tests find RabbitMQ: at NSML_TEST_AMQP or NSML_BUS, else where `./dev servers up rabbit` started it. Every test gets a
cluster name of its own, and what it leaves on the server is deleted at its end."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from nsml.bus import topology
from nsml.clock import SystemClock
from nsml.core.ids import new_id
from nsml.core.ports import Queue

ROOT = Path(__file__).parents[1]


@functools.cache
def found() -> str:
    """The URL of the server; empty when there is none."""
    for variable in ("NSML_TEST_AMQP", "NSML_BUS"):
        given = os.environ.get(variable, "")
        if given.startswith("amqp"):
            return given
    with suppress(ImportError):
        import aio_pika  # noqa: F401  (a newcomer may not have it)

        told = subprocess.run([ROOT / "ops" / "servers", "env", "rabbit"], capture_output=True, text=True)
        return told.stdout.strip().partition("NSML_BUS=")[2].strip("'\"")
    return ""


def url() -> str:
    """The URL of the server. Without one the test is skipped; it fails if NSML_REQUIRE names rabbit."""
    if found():
        return found()
    why = "RabbitMQ is not there: type './dev servers up rabbit' or set NSML_TEST_AMQP"
    if "rabbit" in os.environ.get("NSML_REQUIRE", "").replace(",", " ").split():
        pytest.fail(why)
    pytest.skip(why)


def a_bus(folder: Path, **options: float) -> Swept:
    """A bus for one test; what another of the same folder left is there."""
    return Swept(url(), "test-" + folder.name[-40:] + f"-{os.getpid()}", **options)


class Swept:
    """A RabbitBus that deletes its queues when it is closed."""

    def __init__(self, where: str, cluster: str, **options: float) -> None:
        from nsml.bus.rabbit import RabbitBus

        self.bus = RabbitBus(where, cluster, SystemClock(), **options)
        self._where = where
        self._cluster = cluster
        self._declared: set[str] = set()

    def __getattr__(self, name: str) -> object:
        return getattr(self.bus, name)

    async def __aenter__(self) -> Swept:
        await self.bus.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.bus._closed:
            await self.bus.__aexit__(kind, error, trace)
        await sweep(self._where, self._cluster, sorted(self._declared))

    async def declare(self, queue: Queue) -> None:
        self._declared.add(queue.name)
        await self.bus.declare(queue)

    def deliveries(self, queue: Queue) -> object:
        self._declared.add(queue.name)
        return self.bus.deliveries(queue)


def a_cluster() -> str:
    """A name that no other test uses."""
    return f"test-{new_id()[-12:]}"


class Broker:
    """A RabbitMQ of one test module alone, which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "rabbit"
        self._env = {**os.environ, "NSML_SERVERS": str(folder)}
        self.up()

    @property
    def url(self) -> str:
        return self._say("env", "rabbit").partition("NSML_BUS=")[2].strip()

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text().split()[0])

    def up(self) -> None:
        self._say("up", "rabbit")

    def down(self) -> None:
        self._say("down", "rabbit")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ctl(self, *words: str) -> None:
        servers = ROOT / "ops" / "servers.d"
        env = {
            **self._env,
            "SERVER_FOLDER": str(self.folder),
            "SERVERS_COMMON": str(servers / "common.sh"),
        }
        subprocess.run([servers / "rabbit", "ctl", *words], env=env, check=True, capture_output=True)

    def _say(self, *words: str) -> str:
        done = subprocess.run(
            [ROOT / "ops" / "servers", *words], env=self._env, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout


def is_installed() -> bool:
    """Whether a broker can be started here without installing anything."""
    return bool(shutil.which("rabbitmq-server")) or Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists()


OF_A_PLATFORM = [
    q.name
    for q in (
        topology.scheduler(),
        topology.notifier(),
        topology.sessions(),
        topology.recorder(),
        *(topology.node(name) for name in ("n1", "n2")),
    )
]


async def sweep(where: str, cluster: str, queues: Sequence[str] = OF_A_PLATFORM) -> None:
    """Delete what *cluster* has on the server."""
    import aio_pika

    async with asyncio.timeout(10), await aio_pika.connect(where) as connection:
        channel = await connection.channel()
        for queue in (*queues, "dead"):
            await channel.queue_delete(f"{cluster}:{queue}")
        for exchange in ("nsml", "dead"):
            await channel.exchange_delete(f"{cluster}:{exchange}")
