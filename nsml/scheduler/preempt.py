"""Which running sessions give way to one of higher priority: the fewest, by the least work lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nsml.core.resources import Gpu, never
from nsml.scheduler.feasible import Ask, Space, fits, space_of
from nsml.scheduler.floor import Floor
from nsml.scheduler.snapshot import Holder, Host, Snapshot, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Victims:
    """Who gives way, and the nodes that will then do."""

    holders: tuple[Holder, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Offer:
    """One node made free enough: the work lost by it, who gives way, who is leaving anyway."""

    lost: float
    node: str
    victims: tuple[Holder, ...] = ()
    leaving: tuple[Holder, ...] = ()


class Rescue:
    """Finds room for blocked sessions. What a stopping session will free is promised to one session only, and
    so is what a victim will, so that two never count on the same GPUs."""

    def __init__(self, snapshot: Snapshot, floor: Floor) -> None:
        self._now = snapshot.now
        self._floor = floor
        self._hosts = {host.id: host for host in snapshot.hosts if not host.closed}
        self._on: dict[str, list[Holder]] = {}
        for holder in snapshot.holders:
            for slot in holder.slots:
                self._on.setdefault(slot.node, []).append(holder)
        self._promised: set[str] = set()
        self._hopeless: set[tuple[Ask, int, int]] = set()
        self._lowest = {node: min(h.priority for h in there) for node, there in self._on.items()}
        self._leaving = {node for node, there in self._on.items() if any(h.leaving for h in there)}

    def victims(self, session: Waiting) -> Victims | None:
        """Who must give way for *session* to start; nobody but what is leaving already, if that will do."""
        kind = (session.ask, session.nodes, session.priority)
        if kind in self._hopeless:
            return None
        chosen = self._choose(session)
        if chosen is None:
            self._hopeless.add(kind)
            return None
        holders = {h.id: h for offer in chosen for h in (*offer.victims, *offer.leaving)}
        self._promised.update(holders)
        victims = {h.id: h for offer in chosen for h in offer.victims}
        return Victims(holders=tuple(victims.values()), nodes=tuple(offer.node for offer in chosen))

    def _choose(self, session: Waiting) -> Sequence[_Offer] | None:
        able = [n for n, lowest in self._lowest.items() if lowest < session.priority or n in self._leaving]
        if not able:
            return None
        ready = self._floor.ready(session.ask, session.nodes) if session.nodes > 1 else []
        offers = [_Offer(0.0, node) for node in ready]
        made = [self._offer(session, node) for node in able if node in self._hosts and node not in ready]
        offers.extend(offer for offer in made if offer is not None)
        offers.sort(key=lambda offer: (offer.lost, len(offer.victims), offer.node))
        return offers[: session.nodes] if len(offers) >= session.nodes else None

    def _offer(self, session: Waiting, node: str) -> _Offer | None:
        host = self._hosts[node]
        if never(session.request, host.capacity) is not None:
            return None
        free = [h for h in self._on[node] if h.id not in self._promised]
        leaving = [h for h in free if h.leaving]
        weaker = sorted(
            (h for h in free if not h.leaving and h.priority < session.priority),
            key=lambda h: (self._lost(h), h.id),
        )
        chosen: list[Holder] = []
        while not self._would_fit(session.ask, host, (*leaving, *chosen)):
            if not weaker:
                return None
            chosen.append(weaker.pop(0))
        for holder in sorted(chosen, key=self._lost, reverse=True):
            without = [h for h in chosen if h is not holder]
            if self._would_fit(session.ask, host, (*leaving, *without)):
                chosen = without
        lost = sum(self._lost(h) for h in chosen)
        return _Offer(lost, node, tuple(chosen), tuple(leaving))

    def _lost(self, holder: Holder) -> float:
        """GPU seconds of work since it was last safe; without a GPU, a session's seconds count an eighth."""
        weight = max(holder.ask.gpus, 0.125) * len(holder.slots)
        return weight * max(0.0, self._now - holder.safe)

    def _would_fit(self, ask: Ask, host: Host, gone: Sequence[Holder]) -> bool:
        return fits(ask, freed(self._floor.space(host.id), host, gone))


def freed(space: Space, host: Host, gone: Sequence[Holder]) -> Space:
    """*space* of *host* once the sessions *gone* are gone."""
    known: dict[int, Gpu] = {gpu.index: gpu for gpu in host.capacity.gpus if gpu.healthy}
    gpus = list(zip(space.models, space.shares, strict=True))
    cpus, memory = space.cpus, space.memory
    for holder in gone:
        for slot in holder.slots:
            if slot.node == host.id:
                gpus.extend((known[i].model, 1000) for i in slot.gpus if i in known)
                cpus += holder.ask.cpus
                memory += holder.ask.memory
    return space_of(gpus, cpus, memory)
