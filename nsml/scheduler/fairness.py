"""Which waiting session is next: by priority, then who waited too long, then the owner's share, then age."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from nsml.scheduler.feasible import Ask
from nsml.scheduler.policy import Fairness
from nsml.scheduler.snapshot import Holder, Snapshot, Waiting

CPUS_PER_GPU = 8  # as many CPUs weigh as much as one GPU in an owner's share; common nodes have 6 to 16


def share(ask: Ask, nodes: int) -> float:
    """What a session weighs in its owner's share, in GPUs; even the smallest weighs something."""
    return max(ask.gpu_share / 1000, ask.cpus / 1000 / CPUS_PER_GPU, 1 / CPUS_PER_GPU) * nodes


class Line:
    """The waiting sessions in the order in which they are served; `charge` makes it dynamic: who has just
    been given something comes later."""

    def __init__(self, snapshot: Snapshot, policy: Fairness) -> None:
        self._policy = policy
        self._used: dict[str, float] = defaultdict(float, snapshot.past)
        for holder in snapshot.holders:
            self._used[holder.owner] += share(holder.ask, len(holder.slots))
        self._levels: dict[int, list[Waiting]] = defaultdict(list)
        for waiting in snapshot.waiting:
            self._levels[waiting.priority].append(waiting)
        self._now = snapshot.now
        self._had_waited = [(h.waited, h.ask.gpus * len(h.slots)) for h in snapshot.holders]
        self._gpus = sum([len(host.capacity.gpus) for host in snapshot.hosts])

    def _is_due(self, session: Waiting) -> bool:
        """Whether it is *session*'s turn, whatever others ask for: it has waited long, and who had waited
        half as long hold no more than the lane, so that a queue that is long for all does not become one in
        the order of arrival; or it has waited longer than anybody should."""
        waited = self._now - session.queued
        if waited <= self._policy.patience or waited > self._policy.longest:
            return waited > self._policy.longest
        held = sum([gpus for had_waited, gpus in self._had_waited if had_waited >= waited / 2])
        return held <= self._policy.lane * self._gpus

    def charge(self, session: Waiting) -> None:
        """*session* was placed: its owner's share grows."""
        self._used[session.owner] += share(session.ask, session.nodes)

    def __iter__(self) -> Iterator[Waiting]:
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            due = min(level, key=_age)
            if self._is_due(due):
                yield due
                level = [s for s in level if s is not due]
            yield from self._by_share(level)

    def _by_share(self, level: list[Waiting]) -> Iterator[Waiting]:
        owned: dict[str, list[tuple[float, float, str, Waiting]]] = defaultdict(list)
        for session in level:
            weight = self._policy.size * share(session.ask, session.nodes)
            owned[session.owner].append((weight, session.queued, session.id, session))
        for own in owned.values():
            own.sort(reverse=True)
        heads = [self._head(owner, own) for owner, own in owned.items()]
        heapq.heapify(heads)
        while heads:
            owner = heads[0][3]
            own = owned[owner]
            yield own.pop()[3]
            if own:
                heapq.heapreplace(heads, self._head(owner, own))
            else:
                heapq.heappop(heads)

    def _head(
        self, owner: str, own: list[tuple[float, float, str, Waiting]]
    ) -> tuple[float, float, str, str]:
        weight, queued, session, _ = own[-1]
        return self._used[owner] + weight, queued, session, owner


def _age(session: Waiting) -> tuple[float, str]:
    return session.queued, session.id


def remember(
    past: Mapping[str, float], holders: Iterable[Holder], seconds: float, policy: Fairness
) -> dict[str, float]:
    """What owners used before, after *seconds* in which *holders* held something: a mean that forgets."""
    kept = 0.5 ** (seconds / policy.half_life)
    after = {owner: used * kept for owner, used in past.items() if used * kept > 1e-3}
    for holder in holders:
        after[holder.owner] = after.get(holder.owner, 0.0) + share(holder.ask, len(holder.slots)) * (1 - kept)
    return after
