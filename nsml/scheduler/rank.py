"""How good a place is for a session: the lower the score, the better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nsml.scheduler.feasible import Ask, Space, fits, is_model, take, usable
from nsml.scheduler.policy import Weights

Mix = tuple[tuple[Ask, float], ...]  # requests seen of late, and how much of all they are


class Rank:
    """Scores of places under one mix of requests; what was computed once is remembered."""

    def __init__(self, mix: Mix, supply: Mapping[str, int], weights: Weights) -> None:
        self._mix = mix
        self._weights = weights
        self._pressure = {model: _pressure(model, mix, count) for model, count in supply.items()}
        self._fragments: dict[Space, float] = {}
        self._best: dict[tuple[Ask, Space], tuple[float, tuple[int, ...]] | None] = {}

    def best(self, ask: Ask, space: Space) -> tuple[float, tuple[int, ...]] | None:
        """The best way to lay *ask* into *space*: its score and which GPUs; None if it does not fit."""
        key = (ask, space)
        if key in self._best:
            return self._best[key]
        found = None
        if fits(ask, space):
            found = min((self._score(ask, space, way), way) for way in self._ways(ask, space))
        self._best[key] = found
        return found

    def local(self, have: int) -> float:
        """What *have* bytes on the node already take off a score."""
        return self._weights.local * min(1.0, have / (10 << 30))

    def _ways(self, ask: Ask, space: Space) -> Sequence[tuple[int, ...]]:
        """The ways to pick GPUs that differ: whole ones of the least wanted models; a part of any."""
        if not ask.gpus:
            return [()]
        able = usable(ask, space)
        if ask.gpus == 1:
            kinds = {(space.models[i], space.shares[i]): i for i in reversed(able)}
            return [(i,) for i in kinds.values()]
        able.sort(key=lambda i: (self._pressure.get(space.models[i], 0.0), space.shares[i], i))
        return [tuple(able[: ask.gpus])]

    def _score(self, ask: Ask, space: Space, way: tuple[int, ...]) -> float:
        after = take(ask, space, way)
        score = self._weights.fragments * (self.fragments(after) - self.fragments(space))
        score += self._weights.left * sum(after.shares) / 1000
        if not ask.model:
            scarce = sum(self._pressure.get(space.models[i], 0.0) for i in way)
            score += self._weights.scarce * scarce * ask.share / 1000
        return score

    def fragments(self, space: Space) -> float:
        """How many of the free GPUs a request drawn from the mix could not use, on average (FGD, ATC'23)."""
        known = self._fragments.get(space)
        if known is None:
            known = sum(part * _unusable(ask, space) for ask, part in self._mix) / 1000
            self._fragments[space] = known
        return known


def _unusable(ask: Ask, space: Space) -> int:
    if not fits(ask, space):
        return sum(space.shares)
    return sum(space.shares) - sum(space.shares[i] for i in usable(ask, space))


def _pressure(model: str, mix: Mix, supply: int) -> float:
    """How much of a model's GPUs is asked for by name, next to what there is of it."""
    named = sum(part * ask.gpu_share / 1000 for ask, part in mix if ask.model and is_model(model, ask.model))
    total = sum(part * ask.gpu_share / 1000 for ask, part in mix) or 1.0
    return named / total / supply if supply else 0.0
