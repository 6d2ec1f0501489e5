"""The node's agent: takes orders about attempts, supervises each, finds them again after a restart."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from nsml.bus import topology
from nsml.bus.consumer import Fence, consume
from nsml.bus.patience import pauses
from nsml.core import catalogue as c
from nsml.core.catalogue import Holding
from nsml.core.errors import NsmlError, Unavailable
from nsml.core.messages import Envelope, Message
from nsml.core.ports import Blobs, Bus, Clock, Executor
from nsml.core.tree import Tree
from nsml.executor import trees
from nsml.executor.attempt import Kept, Name, Phase, Verdict, conflict, judge, replaces
from nsml.executor.bundle import Host, lay_library
from nsml.executor.datasets import Datasets
from nsml.executor.environment import Environments
from nsml.executor.layout import Node
from nsml.executor.over import Over
from nsml.executor.process import remove
from nsml.executor.shelf import Shelf
from nsml.executor.spool import Checkpoints
from nsml.executor.supervisor import Supervisor, read_kept, write_kept
from nsml.settings import Settings, passed_on

log = logging.getLogger(__name__)


class NodeAgent:
    """Runs this node's attempts. What it must remember lies in their folders and in `over`, the list of
    attempts that must never start again."""

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        bus: Bus,
        blobs: Blobs,
        clock: Clock,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self._settings = settings
        self._root = settings.home / "node" / settings.node
        self._executor = executor
        self._bus = bus
        self._blobs = blobs
        self._clock = clock
        self._checkpoints = checkpoints
        self._shelf = Shelf(self._root, settings.cache_limit)
        self._datasets = Datasets(self._shelf, blobs)
        self._environments = Environments(settings.python, self._shelf, clock)
        self._over = Over(self._root / "over")
        self._supervisors: dict[Name, Supervisor] = {}
        self._reaping: set[Name] = set()

    async def run(self) -> None:
        """Serve this node until cancelled; what runs goes on running."""
        self._node = await self._settle_in()
        queue = topology.node(self._settings.node)
        await self._bus.declare(queue)
        handlers = {
            c.StartAttempt: self.on_start,
            c.StopAttempt: self.on_stop,
            c.ReapAttempt: self.on_reap,
            c.AskAttempt: self.on_ask,
        }
        async with asyncio.TaskGroup() as group:
            self._group = group
            for kept in await asyncio.to_thread(self._find):
                self._adopt(kept)
            orders = consume(
                self._bus, queue, handlers, clock=self._clock, fence=Fence(), actor=self._actor()
            )
            group.create_task(orders, name="orders")
            self.ready.set()

    def holdings(self) -> tuple[Holding, ...]:
        """The attempts this node has; `ended` ones wait to be forgotten."""
        return tuple(
            Holding(
                session=s.kept.session,
                attempt=s.kept.attempt,
                rank=s.kept.spec.rank,
                ended=s.phase is Phase.ENDED,
            )
            for s in self._supervisors.values()
        )

    def cached(self) -> tuple[str, ...]:
        """Digests of the trees and names of the environments that need not be fetched or built."""
        return (*self._shelf.names("trees"), *self._environments.names())

    # -- orders ------------------------------------------------------------------------------------------
    async def on_start(self, envelope: Envelope) -> None:
        message: c.StartAttempt = envelope.body  # type: ignore[assignment]
        kept = Kept(session=message.session, attempt=message.attempt, spec=message.spec)
        active = [s.kept for s in self._supervisors.values() if s.phase is not Phase.ENDED]
        match judge(kept, active, self._supervisors.keys(), self._over.names):
            case Verdict.TAKE:
                self._take(kept)
            case Verdict.REPEAT:
                self._spawn(self._supervisors[_name(message)].repeat(), f"repeat {kept.id}")
            case Verdict.REFUSE:
                self._refuse(kept, conflict(kept, active))
            case Verdict.IGNORE:
                log.info("late order to start ignored", extra={"attempt": kept.id})

    async def on_stop(self, envelope: Envelope) -> None:
        message: c.StopAttempt = envelope.body  # type: ignore[assignment]
        supervisor = self._supervisors.get(_name(message))
        if supervisor is None:
            self._never_ran(message)
        elif supervisor.phase is not Phase.ENDED:
            supervisor.stop(message.grace, save=message.save)
        else:
            self._spawn(supervisor.repeat(), f"repeat {supervisor.kept.id}")

    async def on_reap(self, envelope: Envelope) -> None:
        message: c.ReapAttempt = envelope.body  # type: ignore[assignment]
        supervisor = self._supervisors.get(_name(message))
        if supervisor is not None and _name(message) not in self._reaping:
            self._over.add(supervisor.kept.name)
            self._reaping.add(_name(message))
            self._spawn(self._reap(supervisor), f"reap {supervisor.kept.id}")

    async def on_ask(self, envelope: Envelope) -> None:
        message: c.AskAttempt = envelope.body  # type: ignore[assignment]
        self._spawn(self._answer(message, envelope.id), f"answer {message.ask}")

    # -- what follows from them ----------------------------------------------------------------------------
    def _take(self, kept: Kept) -> None:
        try:
            write_kept(self._node.attempts / kept.id, kept)
        except OSError as error:
            self._refuse(kept, f"its folder cannot be made: {error.strerror}")
            return
        self._supervise(kept)

    def _adopt(self, kept: Kept) -> None:
        """Go on with an attempt of a former process, or finish forgetting it."""
        self._supervise(kept)
        if kept.name in self._over.names:
            self._reaping.add(kept.name)
            self._spawn(self._reap(self._supervisors[kept.name]), f"reap {kept.id}")

    def _supervise(self, kept: Kept) -> None:
        older = [s for s in self._supervisors.values() if replaces(kept, s.kept) and not s.gone.is_set()]
        for supervisor in older:  # the platform gave it up: two of one session never run at once
            supervisor.stop(0.0)
        supervisor = Supervisor(self._node, kept, older[-1].gone if older else None)
        self._supervisors[kept.name] = supervisor
        supervisor.task = self._spawn(supervisor.run(), f"attempt {kept.id}")

    def _refuse(self, kept: Kept, reason: str) -> None:
        session, attempt, rank = kept.who
        rejected = c.AttemptRejected(
            session=session, attempt=attempt, rank=rank, node=self._settings.node, reason=reason
        )
        log.info("attempt refused", extra={"attempt": kept.id, "why": reason})
        self._spawn(self._tell(rejected), f"refuse {kept.id}")

    def _never_ran(self, message: c.StopAttempt) -> None:
        """A stop for what is not here: it is over, and should its start come late it must stay so."""
        session, attempt = _name(message)
        self._over.add((session, attempt))
        exited = c.AttemptExited(
            session=session,
            attempt=attempt,
            rank=message.rank,
            node=self._settings.node,
            code=None,
            cause="stopped",
            reason="it was not on this node",
        )
        self._spawn(self._tell(exited), f"tell that {session} is not here")

    async def _reap(self, supervisor: Supervisor) -> None:
        """Forget an attempt. One that the platform gave up while it runs is ended first."""
        kept = supervisor.kept
        if supervisor.phase is not Phase.ENDED and supervisor.task:
            supervisor.task.cancel()
            await asyncio.gather(supervisor.task, return_exceptions=True)
        await self._executor.reap(kept.id)
        remove(self._node.attempts / kept.id)  # what never came to be started
        supervisor.gone.set()
        self._supervisors.pop(kept.name, None)
        self._reaping.discard(kept.name)

    async def _answer(self, message: c.AskAttempt, cause: str) -> None:
        supervisor = self._supervisors.get(_name(message))
        ok, data = False, f"{message.session} does not run on {self._settings.node}."
        if supervisor is not None and message.verb != "output":
            data = f"{message.session} cannot be asked for {message.verb!r} here: only for 'output'."
        elif supervisor is not None:
            try:
                tree = await supervisor.produced() or await trees.put_list(self._blobs, Tree())
                ok, data = True, tree
            except NsmlError as error:
                data = error.message
        answer = c.AttemptAnswered(session=message.session, ask=message.ask, ok=ok, data=data)
        await self._tell(answer, cause)

    async def _tell(self, message: Message, cause: str = "") -> None:
        """Publish; while the bus is away, again."""
        envelope = Envelope(body=message, at=self._clock.now(), actor=self._actor(), cause=cause)
        for pause in pauses():
            try:
                return await self._bus.publish(envelope)
            except Unavailable as error:
                log.warning("telling waits", extra={"route": envelope.route, "why": error.message})
            await self._clock.sleep(pause)

    # -- the node --------------------------------------------------------------------------------------
    async def _settle_in(self) -> Node:
        attempts = self._root / "attempts"
        await asyncio.to_thread(_make_folders, self._root, attempts)
        await self._shelf.look()
        await asyncio.to_thread(self._over.read)
        host = Host(
            settings=self._settings,
            library=await asyncio.to_thread(lay_library, self._root / "bundle"),
            inherited=passed_on(),
            memory=self._settings.memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        )
        return Node(
            host=host,
            attempts=attempts,
            executor=self._executor,
            blobs=self._blobs,
            clock=self._clock,
            datasets=self._datasets,
            environments=self._environments,
            tell=self._tell,
            checkpoints=self._checkpoints,
        )

    def _find(self) -> list[Kept]:
        """What a former process left; what was to be forgotten goes now."""
        found = []
        for folder in sorted((self._root / "attempts").iterdir()):
            if folder.name.startswith("."):
                continue
            try:
                kept = read_kept(folder)
            except (ValueError, TypeError, OSError) as error:
                log.warning("folder is no attempt", extra={"folder": str(folder), "why": str(error)})
                continue
            found.append(kept)
        return sorted(found, key=lambda kept: kept.who)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._group.create_task(_guarded(work, name), name=name)

    def _actor(self) -> str:
        return f"node:{self._settings.node}"


async def _guarded(work: Coroutine[Any, Any, None], name: str) -> None:
    """*work*, whose failure must not end the node's other attempts."""
    try:
        await work
    except Exception:  # (logged with its traceback; the node goes on)
        log.exception("task failed", extra={"task": name})


def _name(message: c.StartAttempt | c.StopAttempt | c.ReapAttempt | c.AskAttempt) -> Name:
    return message.session, message.attempt


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
