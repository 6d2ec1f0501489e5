"""What is free while a plan is made, arranged so that a placement costs the same in a cluster of any size."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from nsml.core.resources import Slot
from nsml.scheduler.feasible import WHOLE, Ask, Space, fits, is_model, space_of
from nsml.scheduler.rank import Rank
from nsml.scheduler.snapshot import Host, Waiting


class Look(NamedTuple):
    """All that sessions see of a node: nodes that look the same share one bucket."""

    space: Space
    near: tuple[str, ...]  # the digests it caches of those that anybody waits for


class Wish(NamedTuple):
    """All that nodes see of a session, each node's share."""

    ask: Ask
    data: tuple[tuple[str, int], ...]


def wish_of(session: Waiting) -> Wish:
    return Wish(session.ask, session.data)


@dataclass(slots=True)
class _Ladder:
    """The looks that can take a wish, best first; `read` is how much of the floor's news it has seen."""

    rungs: list[tuple[float, int, Look]] = field(default_factory=list)
    read: int = 0


Gpus = list[tuple[int, str, int]]  # (index, model, free share)


class Floor:
    """Nodes in buckets by look, and for each wish a heap of looks by score. A heap learns only of looks that
    came up since it was last asked; one whose bucket is empty by then is thrown away when it is met."""

    def __init__(self, hosts: Iterable[Host], rank: Rank, wanted: Collection[str] = ()) -> None:
        self._rank = rank
        self._wanted = frozenset(wanted)
        self._hosts: dict[str, Host] = {}
        self._gpus: dict[str, Gpus] = {}  # of nodes from which something was taken
        self._look: dict[str, Look] = {}
        self._place: dict[str, int] = {}
        self._buckets: dict[Look, list[str]] = {}
        self._news: list[Look] = []
        self._ladders: dict[Wish, _Ladder] = {}
        for host in hosts:
            if not host.closed:
                self._open(host)

    def _open(self, host: Host) -> None:
        self._hosts[host.id] = host
        near = tuple(sorted(self._wanted & host.cached)) if self._wanted else ()
        self._put(host.id, Look(space_of([(m, WHOLE) for _, m in host.gpus], host.cpus, host.memory), near))

    # -- what is there ---------------------------------------------------------------------------------
    def __contains__(self, node: str) -> bool:
        return node in self._look

    def space(self, node: str) -> Space:
        return self._look[node].space

    def spaces(self) -> dict[Space, int]:
        """How many nodes have each space."""
        counted: dict[Space, int] = {}
        for look, nodes in self._buckets.items():
            counted[look.space] = counted.get(look.space, 0) + len(nodes)
        return counted

    def ready(self, ask: Ask, most: int) -> list[str]:
        """Up to *most* nodes that can take *ask* now."""
        found: list[str] = []
        for look, nodes in self._buckets.items():
            if nodes and fits(ask, look.space):
                found.extend(nodes[: most - len(found)])
                if len(found) >= most:
                    break
        return found

    # -- giving out ------------------------------------------------------------------------------------
    def place(self, session: str, wish: Wish, nodes: int) -> tuple[Slot, ...] | None:
        """Give *session* a share of *nodes* distinct nodes, the best ones; None if there are fewer."""
        if nodes > 1 and len(self.ready(wish.ask, nodes)) < nodes:
            return None
        lifted: list[tuple[str, Look, Space]] = []
        slots: list[Slot] = []
        for _ in range(nodes):
            found = self._best(wish)
            if found is None:
                break
            look, way = found
            node = self._pick(look, session)
            slots.append(Slot(node=node, gpus=self._hand_out(node, look.space, wish.ask, way)))
            lifted.append((node, look, self._after(node, look.space, wish.ask)))
            self._lift(node)
        for node, look, after in lifted:
            self._put(node, Look(after, look.near))
        return tuple(slots) or None

    def hold(self, node: str, ask: Ask) -> Space:
        """Keep back what *ask* needs of *node*, as far as it is free; what was kept back."""
        look = self._look[node]
        held: Gpus = []
        rest: Gpus = []
        for gpu in self._free(node):
            wanted = gpu[2] >= ask.share and (not ask.model or is_model(gpu[1], ask.model))
            (held if wanted and len(held) < ask.gpus else rest).append(gpu)
        cpus = min(ask.cpus, max(look.space.cpus, 0))
        memory = min(ask.memory, max(look.space.memory, 0))
        self._gpus[node] = rest
        self._lift(node)
        free = space_of(_kinds(rest), look.space.cpus - cpus, look.space.memory - memory)
        self._put(node, Look(free, look.near))
        return space_of(_kinds(held), cpus, memory)

    def _best(self, wish: Wish) -> tuple[Look, tuple[int, ...]] | None:
        ladder = self._ladders.get(wish)
        if ladder is None:
            ladder = self._ladders[wish] = _Ladder()
            self._fill(ladder, wish)
        for at in range(ladder.read, len(self._news)):
            self._climb(ladder, wish, self._news[at], at)
        ladder.read = len(self._news)
        while ladder.rungs:
            look = ladder.rungs[0][2]
            found = self._rank.best(wish.ask, look.space)
            if found and self._buckets.get(look):
                return look, found[1]
            heapq.heappop(ladder.rungs)
        return None

    def _fill(self, ladder: _Ladder, wish: Wish) -> None:
        for at, look in enumerate(self._buckets):
            self._climb(ladder, wish, look, at - len(self._buckets))
        ladder.read = len(self._news)

    def _climb(self, ladder: _Ladder, wish: Wish, look: Look, at: int) -> None:
        if not self._buckets.get(look):
            return
        found = self._rank.best(wish.ask, look.space)
        if found:
            have = sum([size for digest, size in wish.data if digest in look.near]) if look.near else 0
            score = found[0] - (self._rank.local(have) if have else 0.0)
            heapq.heappush(ladder.rungs, (score, at, look))

    def _pick(self, look: Look, session: str) -> str:
        nodes = self._buckets[look]
        return nodes[zlib.crc32(session.encode()) % len(nodes)]

    def _hand_out(self, node: str, space: Space, ask: Ask, way: tuple[int, ...]) -> tuple[int, ...]:
        """The indices of GPUs like those at *way* in *space*; they are no longer free."""
        if not way:
            return ()
        like = [(space.models[i], space.shares[i]) for i in way]
        taken: list[int] = []
        kept: Gpus = []
        for index, model, free in self._free(node):
            if (model, free) in like:
                like.remove((model, free))
                taken.append(index)
                free -= ask.share
            if free > 0:
                kept.append((index, model, free))
        self._gpus[node] = kept
        return tuple(taken)

    def _free(self, node: str) -> Gpus:
        known = self._gpus.get(node)
        return [(i, model, WHOLE) for i, model in self._hosts[node].gpus] if known is None else known

    def _after(self, node: str, space: Space, ask: Ask) -> Space:
        return space_of(_kinds(self._free(node)), space.cpus - ask.cpus, space.memory - ask.memory)

    def _put(self, node: str, look: Look) -> None:
        bucket = self._buckets.get(look)
        if not bucket:
            bucket = self._buckets[look] = []
            self._news.append(look)
        self._look[node] = look
        self._place[node] = len(bucket)
        bucket.append(node)

    def _lift(self, node: str) -> None:
        look = self._look[node]
        bucket, place = self._buckets[look], self._place[node]
        last = bucket.pop()
        if last != node:
            bucket[place] = last
            self._place[last] = place
        if not bucket:
            del self._buckets[look]


def _kinds(gpus: Gpus) -> list[tuple[str, int]]:
    return [(model, share) for _, model, share in gpus]
