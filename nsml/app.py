"""The composition root: settings → adapters → services. The only file that names concrete adapters."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import importlib
import importlib.metadata
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from nsml import journal
from nsml import settings as configuration
from nsml.clock import SystemClock
from nsml.core.catalogue import Holding
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.checkpoint import name as checkpoint_name
from nsml.core.errors import BadInput, Damaged, Refused
from nsml.core.ports import Blobs, Bus, Clock, Executor, GpuProbe, Mailer, Store, Streams
from nsml.settings import ROLES, Settings

log = logging.getLogger("nsml.app")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The adapters of one platform, open."""

    bus: Bus
    store: Store
    blobs: Blobs
    streams: Streams
    executor: Executor | None
    mailer: Mailer | None
    probe: GpuProbe | None
    clock: Clock


# -- adapters, imported only when chosen -------------------------------------------------------------
def _adapter(setting: str, url: str, known: dict[str, Callable[[], Any]]) -> Any:
    scheme = url.partition(":")[0]
    make = known.get(scheme)
    if make is None:
        raise BadInput(
            f"NSML_{setting}: {scheme!r} is no scheme that is known.",  # of the rest, a password may be part
            hint=f"Known are: {', '.join(f'{name}:' for name in known)}",
        )
    try:
        return make()
    except ModuleNotFoundError as error:
        raise BadInput(
            f"NSML_{setting}: {scheme}: needs the package {error.name}, which is not installed.",
            hint="Type: pip install 'nsml[cluster]'",
        ) from error


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _bus(s: Settings, clock: Clock) -> Bus:
    rabbit = lambda: _class("nsml.bus.rabbit", "RabbitBus")(s.bus, s.cluster, clock)  # noqa: E731
    make = {
        "memory": lambda: _class("nsml.bus.memory", "MemoryBus")(),
        "amqp": rabbit,
        "amqps": rabbit,
    }
    adapter: Bus = _adapter("BUS", s.bus, make)
    return adapter


def _store(s: Settings) -> Store:
    mongo = lambda: _class("nsml.store.mongo", "MongoStore")(s.store, s.cluster)  # noqa: E731
    make = {
        "sqlite": lambda: _class("nsml.store.sqlite", "SqliteStore")(s.path(s.store)),
        "mongodb": mongo,
        "mongodb+srv": mongo,
    }
    adapter: Store = _adapter("STORE", s.store, make)
    return adapter


def _streams(s: Settings) -> Streams:
    mongo = lambda: _class("nsml.store.streams_mongo", "MongoStreams")(s.streams, s.cluster)  # noqa: E731
    make = {
        "file": lambda: _class("nsml.store.streams_file", "FileStreams")(s.path(s.streams)),
        "mongodb": mongo,
        "mongodb+srv": mongo,
    }
    adapter: Streams = _adapter("STREAMS", s.streams, make)
    return adapter


def _blobs(s: Settings) -> Blobs:
    make = {
        "file": lambda: _class("nsml.store.blobs", "ObjectBlobs")(f"file:{s.path(s.blobs)}"),
        "s3": lambda: _class("nsml.store.blobs_s3", "S3Blobs")(s.blobs, s.cluster),
    }
    adapter: Blobs = _adapter("BLOBS", s.blobs, make)
    return adapter


def _executor(s: Settings, clock: Clock) -> Executor:
    root = node_root(s) / "attempts"
    make = {"process": lambda: _class("nsml.executor.process", "ProcessExecutor")(root, clock)}
    adapter: Executor = _adapter("EXECUTOR", s.executor, make)
    return adapter


def _mailer(s: Settings) -> Mailer:
    make = {"maildir": lambda: _class("nsml.notify.maildir", "MaildirMailer")(s.path(s.mail))}
    adapter: Mailer = _adapter("MAIL", s.mail, make)
    return adapter


def _probe(s: Settings) -> GpuProbe:
    static = lambda: _class("nsml.monitor.static", "StaticProbe")(s.gpu, s.node)  # noqa: E731
    adapter: GpuProbe = _adapter("GPU", s.gpu, {"none": static, "static": static})
    return adapter


def node_root(s: Settings) -> Path:
    """Where this node keeps attempts, trees and environments."""
    return s.home / "node" / s.node


@asynccontextmanager
async def open_ports(s: Settings, roles: Sequence[str], clock: Clock) -> AsyncIterator[Ports]:
    """The ports that *roles* need, opened in order and closed in reverse. Raises `NsmlError`."""
    async with AsyncExitStack() as stack:
        _check_whole(s)
        blobs = await stack.enter_async_context(_blobs(s))
        streams = await stack.enter_async_context(_streams(s))
        store = await stack.enter_async_context(_store(s))
        bus = await stack.enter_async_context(_bus(s, clock))
        node = "executor" in roles
        executor = await stack.enter_async_context(_executor(s, clock)) if node else None
        mailer = await stack.enter_async_context(_mailer(s)) if "notifier" in roles else None
        probe = await stack.enter_async_context(_probe(s)) if "monitor" in roles else None
        yield Ports(
            bus=bus,
            store=store,
            blobs=blobs,
            streams=streams,
            executor=executor,
            mailer=mailer,
            probe=probe,
            clock=clock,
        )


def _check_whole(s: Settings) -> None:
    """A database is made after the folders beside it: one that stands without them has lost what it knows of.
    Raises `Damaged`."""
    if not s.store.startswith("sqlite:") or not s.path(s.store).exists():
        return
    for url in (s.blobs, s.streams):
        folder = s.path(url)
        if url.startswith("file:") and not folder.exists():
            raise Damaged(
                f"{folder} is gone, with the files that {s.path(s.store).name} knows of.",
                hint=f"Put back a copy of the whole folder, or type 'mkdir {folder}' to go on without them.",
            )


# -- services --------------------------------------------------------------------------------------
class Service(Protocol):
    """What the platform runs: `run` for ever; `ready` is set once it can be relied on."""

    ready: asyncio.Event

    async def run(self) -> None: ...


Named = tuple[str, Service]


def _services(s: Settings, roles: Sequence[str], ports: Ports) -> list[Named]:
    """The chosen roles' services, in the order in which they start."""
    made: list[Named] = []
    if "scheduler" in roles:
        made.append(("scheduler", _scheduler(ports)))
    if "monitor" in roles:
        recorder = _class("nsml.monitor.recorder", "Recorder")
        sessions = _class("nsml.monitor.sessions", "SessionMonitor")
        made.append(("recorder", recorder(ports.streams, ports.bus, ports.clock)))
        made.append(("sessions", sessions(ports.store, ports.bus, ports.clock)))
    if "notifier" in roles:
        mailing = _class("nsml.notify.rules", "Mailing")(operator=s.user)
        notifier = _class("nsml.notify.service", "Notifier")
        made.append(("notifier", notifier(mailing, ports.store, ports.bus, ports.mailer, ports.clock)))
    made.extend(_node(s, roles, ports))
    return made


def _scheduler(ports: Ports) -> Service:
    policy = importlib.import_module("nsml.scheduler.policy")
    sweep = _class("nsml.store.sweep", "sweep")

    async def housekeep() -> None:
        await sweep(ports.store, ports.blobs, ports.clock.now())

    scheduler: Service = _class("nsml.scheduler.service", "Scheduler")(
        policy.Placing(), policy.Patience(), ports.store, ports.bus, ports.clock, holder(), housekeep
    )
    return scheduler


def _node(s: Settings, roles: Sequence[str], ports: Ports) -> list[Named]:
    made: list[Named] = []
    agent = None
    if "executor" in roles:
        agent = _class("nsml.executor.service", "NodeAgent")(
            s, ports.executor, ports.bus, ports.blobs, ports.clock, _checkpoints(ports.store)
        )
        made.append(("executor", agent))
    if "monitor" in roles and agent is not None:

        def view() -> tuple[tuple[Holding, ...], tuple[str, ...]]:
            return agent.holdings(), agent.cached()

        monitor = _class("nsml.monitor.resources", "ResourceMonitor")
        made.append(("resources", monitor(s, ports.probe, view, ports.bus, ports.clock)))
    return made


def _checkpoints(store: Store) -> Callable[[str, str], Coroutine[Any, Any, str | None]]:
    """Finds the tree of a session's checkpoint, for the nodes."""

    async def find(session: str, checkpoint: str) -> str | None:
        document = await store.load(CHECKPOINT.key(checkpoint_name(session, checkpoint)))
        found = document.value(CHECKPOINT) if document else None
        return found.tree if found and not found.dropped else None

    return find


def holder() -> str:
    """Who this process is to others: HOST/PID."""
    return f"{socket.gethostname()}/{os.getpid()}"


# -- a platform's life -------------------------------------------------------------------------------
async def serve(s: Settings, roles: Sequence[str], stop: asyncio.Event) -> None:
    """Run *roles* until *stop* is set. Raises `NsmlError` when an adapter cannot be opened."""
    clock = SystemClock()
    async with open_ports(s, roles, clock) as ports, asyncio.TaskGroup() as group:
        tasks = []
        for name, service in _services(s, roles, ports):
            task = group.create_task(service.run(), name=name)
            tasks.append(task)
            await _until_ready(service.ready, task)
        if "api" in roles:
            api = _class("nsml.api.app", "Api")(
                s, ports.store, ports.bus, ports.blobs, ports.streams, clock, token(s)
            )
            tasks.append(
                group.create_task(api.run(lambda port: _announce(s, roles, port, clock)), name="api")
            )
        else:
            _announce(s, roles, 0, clock)
        log.info("platform started, roles: %s", ", ".join(roles))
        await stop.wait()
        log.info("platform stops; running sessions go on")
        for task in reversed(tasks):
            task.cancel()


async def _until_ready(ready: asyncio.Event, task: asyncio.Task[None]) -> None:
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _announce(s: Settings, roles: Sequence[str], port: int, clock: Clock) -> None:
    """Tell this home's commands where the platform is."""
    if port:
        _write(s.home / "port", str(port))
        log.info("listens at http://%s:%s", s.host, port)
    facts = {
        "pid": os.getpid(),
        "api": f"http://{s.host}:{port}" if port else None,
        "started": clock.now(),
        "version": importlib.metadata.version("nsml"),
        "roles": list(roles),
    }
    _write(s.home / "platform.json", orjson.dumps(facts).decode())


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    temporary.replace(path)


def token(s: Settings) -> str:
    """The home's API token; made on first use, readable by its owner alone."""
    path = s.home / "token"
    if not path.exists() or not path.read_text().strip():  # an empty one would let everybody in
        _write(path, f"nsml_{secrets.token_hex(32)}")
    return path.read_text().strip()


def _port(s: Settings) -> int:
    """The port to listen on: the setting, else the remembered one if it is still free, else any."""
    if s.port:
        return s.port
    try:
        port = int((s.home / "port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((s.host, port))
    except (OSError, ValueError):
        return 0
    return port


@asynccontextmanager
async def _the_only_one(s: Settings) -> AsyncIterator[None]:
    """Hold the home's lock; `Refused` when another platform does."""
    s.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (s.home / "platform.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "?"
            raise Refused(
                f"A platform runs already in {s.home} (pid {pid}).",
                hint="Type 'nsml status' to see it, 'nsml down' to stop it.",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            (s.home / "platform.json").unlink(missing_ok=True)


async def _main(s: Settings, roles: Sequence[str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _the_only_one(s):
        await serve(replace(s, port=_port(s)), roles, stop)


def parse_roles(text: str) -> tuple[str, ...]:
    """The roles of `api,scheduler`; all when empty. Raises `BadInput`."""
    roles = tuple(role.strip() for role in text.split(",") if role.strip()) or ROLES
    for role in roles:
        if role not in ROLES:
            raise BadInput(f"'{role}' is no role.", hint=f"Roles are: {', '.join(ROLES)}.")
    return roles


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m nsml.app [--roles a,b]`: run a platform in the foreground; the exit code."""
    parser = argparse.ArgumentParser(prog="nsml up", description=main.__doc__)
    parser.add_argument("--roles", default="")
    options = parser.parse_args(argv)
    journal.begin()
    try:
        asyncio.run(_main(configuration.load(), parse_roles(options.roles)))
    except Exception as error:  # noqa: BLE001  the last door: the log gets all of it, people get a sentence
        return journal.end(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
