"""Which waiting sessions start now, where, and which running ones give way to them."""

from __future__ import annotations

from dataclasses import dataclass

from nsml.core.resources import Slot, never
from nsml.scheduler.fairness import Line
from nsml.scheduler.feasible import Ask, Space, is_model
from nsml.scheduler.floor import Floor, Wish, wish_of
from nsml.scheduler.policy import Placing
from nsml.scheduler.preempt import Rescue, Victims
from nsml.scheduler.rank import Rank
from nsml.scheduler.snapshot import Host, Snapshot, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A session gets its slots, all of them."""

    session: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """An attempt of lower priority gives way to the session `wanted_by`."""

    session: str
    attempt: int
    wanted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is held back on a node for a session that waits."""

    node: str
    session: str
    space: Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do; `waiting` is who stays, in the order of service, `kept` what is held back for them,
    `floor` what is left for everybody else."""

    places: tuple[Place, ...] = ()
    preempts: tuple[Preempt, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    kept: tuple[Kept, ...] = ()
    floor: Floor


def plan(snapshot: Snapshot, policy: Placing) -> Plan:
    """Serve the waiting sessions in fair order.

    One that fits gets the best place there is. One that does not may make lower priorities give way; what is
    free on the nodes it will get is kept for it. The first that is blocked and can make nobody give way gets
    a reservation: what it needs of the nodes that lack least for it is kept back until it fits. Later ones
    take only what is left, so they never delay it, however long they run: how long is not known.
    """
    draft = _Draft(snapshot, policy)
    for session in draft.line:
        draft.serve(session)
    return draft.plan()


class _Draft:
    def __init__(self, snapshot: Snapshot, policy: Placing) -> None:
        self._snapshot = snapshot
        self._hosts = {host.id: host for host in snapshot.hosts}
        rank = Rank(snapshot.mix, supply(snapshot.hosts), policy.weights)
        wanted = {digest for session in snapshot.waiting for digest, _ in session.data}
        self._floor = Floor(snapshot.hosts, rank, wanted)
        self._rescue = Rescue(snapshot, self._floor) if policy.preempts else None
        self.line = Line(snapshot, policy.fairness)
        self._blocked: set[tuple[Wish, int]] = set()
        self._places: list[Place] = []
        self._preempts: list[Preempt] = []
        self._waiting: list[Waiting] = []
        self._kept: list[Kept] = []
        self._reserved = False

    def serve(self, session: Waiting) -> None:
        wish = wish_of(session)
        kind = (wish, session.nodes)
        if kind not in self._blocked:
            slots = self._floor.place(session.id, wish, session.nodes)
            if slots is not None:
                self._places.append(Place(session=session.id, slots=slots))
                self.line.charge(session)
                return
        self._waiting.append(session)
        if session.no_queue:
            return
        self._help(session, first=kind not in self._blocked)
        self._blocked.add(kind)

    def _help(self, session: Waiting, first: bool) -> None:
        """Make room for a blocked session, or keep what there is for it."""
        victims = self._rescue.victims(session) if self._rescue else None
        if victims is not None:
            self._give_way(session, victims)
        elif first and not self._reserved:
            self._reserve(session)

    def _give_way(self, session: Waiting, victims: Victims) -> None:
        for holder in victims.holders:
            preempt = Preempt(session=holder.id, attempt=holder.attempt, wanted_by=session.id)
            self._preempts.append(preempt)
        for node in victims.nodes:
            self._keep(node, session)

    def _reserve(self, session: Waiting) -> None:
        ask = session.ask
        able = [
            h for h in self._hosts.values() if not h.closed and never(session.request, h.capacity) is None
        ]
        if len(able) < session.nodes:
            return
        self._reserved = True
        able.sort(key=lambda host: (*_lacking(ask, self._floor.space(host.id)), host.id))
        for host in able[: session.nodes]:
            self._keep(host.id, session)

    def _keep(self, node: str, session: Waiting) -> None:
        space = self._floor.hold(node, session.ask)
        self._kept.append(Kept(node=node, session=session.id, space=space))

    def plan(self) -> Plan:
        return Plan(
            places=tuple(self._places),
            preempts=tuple(self._preempts),
            waiting=tuple(self._waiting),
            kept=tuple(self._kept),
            floor=self._floor,
        )


def supply(hosts: tuple[Host, ...]) -> dict[str, int]:
    """How many GPUs of each model there are."""
    counted: dict[str, int] = {}
    for host in hosts:
        for gpu in host.capacity.gpus:
            counted[gpu.model] = counted.get(gpu.model, 0) + 1
    return counted


def _lacking(ask: Ask, space: Space) -> tuple[int, int, int]:
    """What a node still lacks for *ask*: GPUs, CPUs, memory."""
    have = sum(
        share >= ask.share and (not ask.model or is_model(model, ask.model))
        for model, share in zip(space.models, space.shares, strict=True)
    )
    cpus = max(0, ask.cpus - space.cpus) if ask.cpus else 0
    memory = max(0, ask.memory - space.memory) if ask.memory else 0
    return max(0, ask.gpus - have), cpus, memory
