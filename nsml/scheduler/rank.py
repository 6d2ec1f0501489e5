"""How good a place is for a session: the lower the score, the better."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from nsml.scheduler.feasible import Ask, Space, fits, is_model, take, usable
from nsml.scheduler.policy import Weights

Mix = tuple[tuple[Ask, float], ...]  # requests seen of late, and which part of all each is


class Rank:
    """Scores of places under one mix of requests; what was computed once is remembered."""

    def __init__(self, mix: Mix, supply: Mapping[str, int], weights: Weights) -> None:
        self._weights = weights
        self._usual = Usual(mix)
        self._pressure = {model: pressure(model, mix, supply) for model in supply}
        self._worth: dict[Space, float] = {}
        self._best: dict[tuple[Ask, Space], tuple[float, tuple[int, ...]] | None] = {}

    def best(self, ask: Ask, space: Space) -> tuple[float, tuple[int, ...]] | None:
        """The best way to lay *ask* into *space*: its score and which GPUs; None if it does not fit."""
        key = (ask, space)
        if key in self._best:
            return self._best[key]
        found = None
        if fits(ask, space):
            found = min([(self._score(ask, space, way), way) for way in self._ways(ask, space)])
        self._best[key] = found
        return found

    def local(self, have: int) -> float:
        """What *have* bytes on the node already take off a score."""
        return self._weights.local * min(1.0, have / (10 << 30))

    def _ways(self, ask: Ask, space: Space) -> Sequence[tuple[int, ...]]:
        """The ways to pick GPUs that differ: one of each kind, or several of the least wanted models."""
        if not ask.gpus:
            return [()]
        able = usable(ask, space)
        if ask.gpus == 1:
            kinds = {(space.models[i], space.shares[i]): i for i in reversed(able)}
            return [(i,) for i in kinds.values()]
        if space.models[0] != space.models[-1]:
            able.sort(key=lambda i: (self._pressure.get(space.models[i], 0.0), space.shares[i], i))
        return [tuple(able[: ask.gpus])]

    def _score(self, ask: Ask, space: Space, way: tuple[int, ...]) -> float:
        after = take(ask, space, way)
        score = self._cost(after) - self._cost(space) + self._weights.left * sum(after.shares) / 1000
        if ask.share < 1000:
            rest = sum([space.shares[i] - ask.share for i in way])
            score += self._weights.rest * rest / 1000
        if way and not ask.model:
            scarce = sum([self._pressure.get(space.models[i], 0.0) for i in way])
            score += self._weights.scarce * scarce * ask.share / 1000
        return score

    def _cost(self, space: Space) -> float:
        """What of *space* is of no use to the usual requests, in weighed GPUs."""
        cost = self._worth.get(space)
        if cost is None:
            usual, weights = self._usual, self._weights
            cost = weights.fragments * usual.fragments(space) + weights.stranded * usual.stranded(space)
            self._worth[space] = cost
        return cost


def pressure(model: str, mix: Mix, supply: Mapping[str, int]) -> float:
    """How much a model is asked for by name, next to how much of it there is; 1 if it is as much."""
    total = sum([part * ask.gpu_share for ask, part in mix])
    named = sum([part * ask.gpu_share for ask, part in mix if ask.model and is_model(model, ask.model)])
    if not total or not supply[model]:
        return 0.0
    return named / total / (supply[model] / sum(supply.values()))


Kinds = tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[int, int, float], ...], float]


class Usual:
    """What a request drawn from a mix could use of a space. The requests that a node has CPUs and memory for
    are summed up once for each such amount, so that the length of the mix does not count."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._cpus = sorted({ask.cpus for ask, _ in mix})
        self._memory = sorted({ask.memory for ask, _ in mix})
        self._kinds: dict[tuple[int, int, str], Kinds] = {}
        share = sum([part * ask.gpu_share for ask, part in mix]) / 1000 or 1.0
        self._cpus_each = sum([part * ask.cpus for ask, part in mix if ask.gpus]) / share
        self._memory_each = sum([part * ask.memory for ask, part in mix if ask.gpus]) / share

    def fragments(self, space: Space) -> float:
        """How many of the free GPUs it could not use on average: fragmentation as of Weng et al., ATC'23."""
        if not space.shares:
            return 0.0
        if space.models[0] != space.models[-1]:
            return self._fragments_mixed(space)
        return self._fragments(space.models[0], space.shares, space)

    def _fragments_mixed(self, space: Space) -> float:
        """Of a node with several models, as if each model's GPUs were a node with all of its CPUs."""
        whole = 0.0
        for model in dict.fromkeys(space.models):
            shares = tuple([s for m, s in zip(space.models, space.shares, strict=True) if m == model])
            whole += self._fragments(model, shares, space)
        return whole

    def _fragments(self, model: str, shares: tuple[int, ...], space: Space) -> float:
        single, parts, several, none = self._able(model, space)
        total = sum(shares)
        used = total * none
        for share in shares:
            used += share * parts[bisect_right(single, share)]
        for gpus, share, part in several:
            able = [free for free in shares if free >= share]
            if len(able) >= gpus:
                used += part * sum(able)
        return (total - used) / 1000

    def _able(self, model: str, space: Space) -> Kinds:
        """The requests for which there are CPUs and memory: shares wanted by those for one GPU, in rising
        order, with how many want at most that; those for several; and how many want none."""
        key = (
            bisect_right(self._cpus, max(space.cpus, 0)),
            bisect_right(self._memory, max(space.memory, 0)),
            model,
        )
        kinds = self._kinds.get(key)
        if kinds is None:
            kinds = self._kinds[key] = self._sum_up(model, space)
        return kinds

    def _sum_up(self, model: str, space: Space) -> Kinds:
        single: dict[int, float] = {}
        several: dict[tuple[int, int], float] = {}
        none = 0.0
        cpus, memory = max(space.cpus, 0), max(space.memory, 0)
        for ask, part in self._mix:
            if ask.cpus > cpus or ask.memory > memory or (ask.model and not is_model(model, ask.model)):
                continue
            if not ask.gpus:
                none += part
            elif ask.gpus == 1:
                single[ask.share] = single.get(ask.share, 0.0) + part
            else:
                kind = (ask.gpus, ask.share)
                several[kind] = several.get(kind, 0.0) + part
        wanted = tuple(sorted(single))
        parts = (0.0, *accumulate(single[share] for share in wanted))
        return wanted, parts, tuple((*kind, part) for kind, part in several.items()), none

    def stranded(self, space: Space) -> float:
        """How many of the free GPUs would lack CPUs or memory if all asked for the usual amount."""
        gpus = sum(space.shares) / 1000
        served = gpus
        if self._cpus_each:
            served = min(served, max(space.cpus, 0) / self._cpus_each)
        if self._memory_each:
            served = min(served, max(space.memory, 0) / self._memory_each)
        return gpus - served
