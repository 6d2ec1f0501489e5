"""A whole embedded platform in one process, for flows: with messages doubled or shuffled, and roles killed
at a durable step and started again; `check_world` says whether what is left could have happened."""

from __future__ import annotations

import asyncio
import contextlib
import random
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from nsml import app, settings
from nsml.clock import SystemClock
from nsml.core import catalogue as c
from nsml.core.ids import new_id, stream_id
from nsml.core.messages import Envelope, Message
from nsml.core.plain import plain
from nsml.core.ports import Queue
from nsml.core.resources import Request
from nsml.core.session import ENDED, HOLDING, SESSION, Session, State
from nsml.core.tree import File, Tree

# Where a role can die: before or after each call that makes something last.
DURABLE = {
    "store": ("commit", "settle"),
    "bus": ("publish",),
    "streams": ("append",),
    "blobs": ("put", "put_bytes"),
    "executor": ("start", "reap"),
    "mailer": ("send",),
}
ROLE_PORTS = {
    "scheduler": ("store", "bus"),
    "recorder": ("streams", "bus"),
    "sessions": ("store", "bus"),
    "notifier": ("store", "bus", "mailer"),
    "executor": ("executor", "bus", "blobs"),
}


def steps() -> list[str]:
    """Every named durable step: `scheduler:store.commit:before` …"""
    return [
        f"{role}:{port}.{call}:{when}"
        for role, ports in ROLE_PORTS.items()
        for port in ports
        for call in DURABLE[port]
        for when in ("before", "after")
        if (role, port, call) not in NEVER_REACHED
    ]


NEVER_REACHED = {("sessions", "store", "settle"), ("sessions", "bus", "publish"), ("recorder", "bus", "publish"),
                 ("notifier", "store", "settle"), ("notifier", "bus", "publish")}  # fmt: skip


@dataclass
class Failpoint:
    """Kills *role* the first time its *step* is reached (after *skip* times)."""

    step: str = ""
    skip: int = 0
    hits: int = 0
    killed: asyncio.Event = field(default_factory=asyncio.Event)

    async def reach(self, step: str) -> None:
        if step != self.step or self.killed.is_set():
            return
        self.hits += 1
        if self.hits <= self.skip:
            return
        self.killed.set()
        await asyncio.Event().wait()  # nothing after this point runs: the role is cancelled here


class Watched:
    """A port as one role sees it: passes everything on, with a failpoint around what makes things last."""

    def __init__(self, role: str, name: str, port: Any, failpoint: Failpoint) -> None:
        self._role, self._name, self._port, self._failpoint = role, name, port, failpoint

    def __getattr__(self, call: str) -> Any:
        method = getattr(self._port, call)
        if call not in DURABLE.get(self._name, ()):
            return method

        async def watched(*args: Any, **kwargs: Any) -> Any:
            await self._failpoint.reach(f"{self._role}:{self._name}.{call}:before")
            result = await method(*args, **kwargs)
            await self._failpoint.reach(f"{self._role}:{self._name}.{call}:after")
            return result

        return watched


class Unruly:
    """A bus that delivers every message twice, or late and in another order."""

    def __init__(self, bus: Any, *, twice: bool, shuffled: bool, seed: int) -> None:
        self._bus, self._twice, self._shuffled = bus, twice, shuffled
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish(self, envelope: Envelope) -> None:
        if self._shuffled and envelope.body.form != "tel":
            await asyncio.sleep(self._random.random() * 0.05)
        await self._bus.publish(envelope)
        if self._twice:
            await self._bus.publish(envelope)


class World:
    """A platform whose roles can be killed; sessions are queued by message, as the API does."""

    def __init__(self, home: Path, failpoint: Failpoint, **changes: Any) -> None:
        self.settings = settings.load(
            {"NSML_HOME": str(home), "NSML_NODE": "n1", "NSML_USER": "alice", "NSML_BEAT": "0.5", **changes}
        )
        self.failpoint = failpoint
        self.ports: app.Ports
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.seen: list[Envelope] = []
        self.numbers = 0
        self.stack = contextlib.AsyncExitStack()
        self.executors: list[Any] = []

    # -- roles ---------------------------------------------------------------------------------------
    async def start(self) -> None:
        self._spawn("spy", self._spy())
        self._spawn("undertaker", self._bring_back())  # first: a role may die while it starts
        for name in ("scheduler", "recorder", "sessions", "notifier", "executor"):
            await self.start_role(name)

    async def start_role(self, name: str) -> None:
        """Start a role as a new process would: with nothing but its ports."""
        ports = self.ports
        for port in ROLE_PORTS[name]:
            ports = replace(ports, **{port: Watched(name, port, getattr(self.ports, port), self.failpoint)})
        if name == "executor":
            await self._start_node(name, self.settings, ports)
            return
        role = {"recorder": "monitor", "sessions": "monitor"}.get(name, name)
        service = dict(app._services(self.settings, [role], ports))[name]
        await self._start_service(name, service)

    async def add_node(self, node: str) -> None:
        """A second node, with an executor of its own."""
        changed = replace(self.settings, node=node)
        executor = await self.stack.enter_async_context(app._executor(changed, self.ports.clock))
        probe = await self.stack.enter_async_context(app._probe(changed))
        self.executors.append(executor)
        await self._start_node(node, changed, replace(self.ports, executor=executor, probe=probe))

    async def _start_node(self, name: str, changed: settings.Settings, ports: app.Ports) -> None:
        services = dict(app._node(changed, ["executor", "monitor"], ports))
        await self._start_service(name, services["executor"])
        await self._start_service(f"{name}-resources", services["resources"])

    async def _start_service(self, name: str, service: Any) -> None:
        await app._until_ready(service.ready, self._spawn(name, service.run()))

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks[name] = asyncio.create_task(work, name=name)
        return self.tasks[name]

    async def kill(self, name: str) -> None:
        """End a role at once, whatever it is doing."""
        for part in (f"{name}-resources", name):
            task = self.tasks.pop(part, None)
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _bring_back(self) -> None:
        """Kill the role that reached the failpoint, and start it again."""
        await self.failpoint.killed.wait()
        role = self.failpoint.step.partition(":")[0]
        await self.kill(role)
        await self.start_role(role)

    async def _spy(self) -> None:
        queue = Queue(name="nsml.spy", bindings=("#",), lasting=False, most=100_000)
        await self.ports.bus.declare(queue)
        async for delivery in self.ports.bus.deliveries(queue):
            self.seen.append(delivery.envelope)
            await delivery.ack()

    async def close(self) -> None:
        for name in reversed(list(self.tasks)):
            await self.kill(name)

    # -- what a user does ----------------------------------------------------------------------------
    async def code(self, files: Mapping[str, str]) -> str:
        made = []
        for path, text in sorted(files.items()):
            data = textwrap.dedent(text).encode()
            made.append(File(path=path, bytes=len(data), sha256=await self.ports.blobs.put_bytes(data)))
        return await self.ports.blobs.put_bytes(orjson.dumps(plain(Tree(files=tuple(made)))))

    async def run(
        self, script: str, *, gpus: int = 0, nodes: int = 1, no_queue: bool = False, **run: Any
    ) -> str:
        code = await self.code({"main.py": script})
        self.numbers += 1
        name = f"alice/None/{self.numbers}"
        request = Request(gpus=gpus, nodes=nodes)
        await self.tell(
            c.RunSession(session=name, run=c.Run(code=code, request=request, **run), no_queue=no_queue)
        )
        return name

    async def tell(self, message: Message) -> None:
        """Send a user's command; what the platform then owes comes later."""
        clock = self.ports.clock
        await self.ports.bus.publish(Envelope(id=new_id(), body=message, at=clock.now(), actor="user:alice"))

    async def session(self, name: str) -> Session | None:
        document = await self.ports.store.load(SESSION.key(name))
        return document.value(SESSION) if document else None

    async def until(self, name: str, *states: State, seconds: float = 30) -> Session:
        async with asyncio.timeout(seconds):
            while True:
                session = await self.session(name)
                if session and session.state in (states or ENDED):
                    return session
                await asyncio.sleep(0.02)

    async def eventually(self, condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.02)

    async def has_checkpoint(self, name: str) -> bool:
        session = await self.session(name)
        return session is not None and session.checkpoint is not None

    async def no_streams(self, name: str) -> bool:
        return not [s for kind in ("log", "outbox") for s in await self.ports.streams.find(f"{kind}/{name}/")]

    async def nothing_runs(self) -> None:
        """Wait until no process of an ended session is left, and every run directory is reaped."""

        async def none() -> bool:
            return not [held for executor in self.executors for held in await executor.held()]

        await self.eventually(none)

    def mails(self) -> list[str]:
        box = self.settings.path(self.settings.mail)
        return [path.read_text() for folder in ("new", "cur") for path in sorted((box / folder).glob("*"))]

    async def until_mails(self, count: int) -> None:
        async def there() -> bool:
            return len(self.mails()) >= count

        await self.eventually(there)

    async def log(self, name: str) -> str:
        session = await self.session(name)
        assert session is not None
        parts = []
        for attempt in range(1, session.attempt + 1):
            stream = stream_id("log", name, attempt)
            parts.append(await self.ports.streams.read(stream, 0, 64 << 20))
        return b"".join(parts).decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def a_world(
    home: Path,
    *,
    twice: bool = False,
    shuffled: bool = False,
    kill_at: str = "",
    skip: int = 0,
    seed: int = 0,
    **changes: Any,
) -> AsyncIterator[World]:
    """A started platform in *home*; checked and closed at the end."""
    world = World(home, Failpoint(skip=skip), **changes)
    roles = ("scheduler", "executor", "monitor", "notifier")
    async with app.open_ports(world.settings, roles, SystemClock()) as ports:
        if twice or shuffled:
            ports = replace(ports, bus=Unruly(ports.bus, twice=twice, shuffled=shuffled, seed=seed))
        world.ports = ports
        world.executors.append(ports.executor)
        async with world.stack:
            try:
                await world.start()
                world.failpoint.step = kill_at
                yield world
                await settled(world)
                await check_world(world)
            finally:
                await world.close()


async def settled(world: World, seconds: float = 20) -> None:
    """Wait until nothing is owed any more."""
    async with asyncio.timeout(seconds):
        while await world.ports.store.owing():
            await asyncio.sleep(0.02)


ENDINGS = ("session.completed", "session.failed", "session.stopped")


async def check_world(world: World) -> None:
    """The invariants that hold after every flow."""
    sessions = [d.value(SESSION) for d in await world.ports.store.scan("session", limit=100_000)]
    held: Counter[tuple[str, int]] = Counter()
    for session in sessions:
        assert session is not None
        assert bool(session.slots) == (session.state in HOLDING), (
            f"{session.id} is {session.state} with {session.slots}"
        )
        assert (session.then is not None) == (session.state is State.STOPPING), session
        held.update((slot.node, gpu) for slot in session.slots for gpu in slot.gpus)
    assert not [gpu for gpu, holders in held.items() if holders > 1], f"held twice: {held}"
    _check_history(world, [s for s in sessions if s])
    assert not await world.ports.bus.parked(), (
        f"parked: {[p[1][-800:] for p in await world.ports.bus.parked()]}"
    )


def _check_history(world: World, sessions: list[Session]) -> None:
    """Exactly one ending for each life of a session; attempts start once and only grow."""
    told = {e.id: e for e in world.seen}.values()
    endings: Counter[str] = Counter()
    for envelope in told:
        if envelope.name in ENDINGS:
            endings[envelope.body.session] += 1  # type: ignore[attr-defined]
    for session in sessions:
        if session.is_ended:
            assert endings[session.id] >= 1, f"{session.id} ended without a word"
            resumed = sum(1 for e in told if e.name == "session.queued" and e.body.session == session.id)  # type: ignore[attr-defined]
            assert endings[session.id] <= max(1, resumed), f"{session.id} ended {endings[session.id]} times"
