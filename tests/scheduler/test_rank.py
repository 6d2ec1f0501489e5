"""Scores: what makes one place better than another."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsml.scheduler.feasible import Ask, Space, fits, take, usable, why_not
from nsml.scheduler.policy import Weights
from nsml.scheduler.rank import Rank, Usual, pressure

ONE, TWO, HALF = Ask(gpus=1), Ask(gpus=2), Ask(gpus=1, share=500)


def space(*shares: int, cpus: int = 8000, memory: int = 64, model: str = "A") -> Space:
    return Space((model,) * len(shares), shares, cpus, memory)


def test_a_part_of_a_gpu_goes_to_the_fullest_one_that_has_it() -> None:
    rank = Rank(((ONE, 0.5), (HALF, 0.5)), {"A": 8}, Weights())
    found = rank.best(HALF, space(1000, 600, 400))
    assert found
    assert found[1] == (1,)


def test_whole_gpus_of_the_less_wanted_model_are_taken_first() -> None:
    mix = ((Ask(gpus=2, model="B"), 0.5), (TWO, 0.5))
    mixed = Space(("A", "A", "B", "B"), (1000,) * 4, 0, 0)
    found = Rank(mix, {"A": 2, "B": 2}, Weights()).best(TWO, mixed)
    assert found
    assert found[1] == (0, 1)


def test_what_does_not_fit_has_no_score() -> None:
    rank = Rank(((ONE, 1.0),), {"A": 8}, Weights())
    assert rank.best(Ask(gpus=1, model="B"), space(1000)) is None
    assert rank.best(Ask(gpus=1, cpus=9000), space(1000)) is None
    assert rank.best(Ask(gpus=3), space(1000, 1000, 500)) is None


def test_a_model_in_demand_has_pressure_by_how_rare_it_is() -> None:
    mix = ((Ask(gpus=1, model="B"), 0.1), (ONE, 0.9))
    assert pressure("B", mix, {"A": 90, "B": 10}) == pytest.approx(1.0)
    assert pressure("B", mix, {"A": 95, "B": 5}) == pytest.approx(2.0)
    assert pressure("A", mix, {"A": 90, "B": 10}) == 0


def test_gpus_without_cpus_are_stranded() -> None:
    usual = Usual(((Ask(gpus=1, cpus=4000), 1.0),))
    assert usual.stranded(space(1000, 1000, cpus=8000)) == 0
    assert usual.stranded(space(1000, 1000, cpus=4000)) == 1


def test_why_a_space_does_not_do() -> None:
    assert why_not(TWO, space(1000)) == "2 GPUs wanted, 1 free"
    assert why_not(Ask(gpus=1, model="B"), space(1000)) == "1 B GPU wanted, none free"
    assert why_not(Ask(cpus=9000), space()) == "9 CPUs wanted, 8 free"
    assert why_not(ONE, space(1000)) is None


def fragments_as_defined(mix: tuple[tuple[Ask, float], ...], here: Space) -> float:
    """The definition of the paper, request by request."""
    total = sum(here.shares)
    lost = 0.0
    for ask, part in mix:
        if not fits(ask, here):
            lost += part * total
        elif ask.gpus:
            lost += part * (total - sum(here.shares[i] for i in usable(ask, here)))
    return lost / 1000


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(min_value=0, max_value=2**48))
def test_fragments_are_those_of_the_definition(seed: int) -> None:
    chance = random.Random(seed)
    asks = [
        Ask(
            gpus=gpus,
            share=chance.choice((300, 500, 1000)) if gpus == 1 else 1000,
            cpus=chance.choice((0, 1000, 4000)),
            memory=chance.choice((0, 10, 100)),
            model=chance.choice(("", "", "A", "B", "A|B")) if gpus else "",
        )
        for gpus in (chance.choice((0, 1, 1, 2, 4)) for _ in range(8))
    ]
    mix = tuple((ask, 1 / len(asks)) for ask in asks)
    shares = sorted((chance.choice((200, 500, 1000)) for _ in range(chance.randrange(6))), reverse=True)
    here = space(*shares, cpus=chance.choice((0, 1000, 8000)), memory=chance.choice((0, 10, 200)))
    assert Usual(mix).fragments(here) == pytest.approx(fragments_as_defined(mix, here))


def test_taking_gives_the_space_that_is_left() -> None:
    assert take(HALF._replace(cpus=1000), space(1000, 600), (1,)) == space(1000, 100, cpus=7000)
    assert take(TWO, space(1000, 1000), (0, 1)) == space()
