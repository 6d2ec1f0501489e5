"""The order of service."""

from __future__ import annotations

from snapshots import NOW, a_node, at, holder, waiting

from nsml.scheduler.fairness import Line, remember, share
from nsml.scheduler.feasible import Ask
from nsml.scheduler.policy import Fairness
from nsml.scheduler.snapshot import Holder, Waiting

POLICY = Fairness()
HOUR = 3600.0


def order(*sessions: Waiting | Holder, policy: Fairness = POLICY) -> list[str]:
    line = Line(at([a_node(gpus=10)], *sessions), policy)
    return [session.id for session in line]


def test_short_requests_go_before_long_ones_of_the_same_owner() -> None:
    assert order(waiting("a/x/1", 4, queued=NOW - 100), waiting("a/x/2", 1)) == ["a/x/2", "a/x/1"]


def test_owners_take_turns() -> None:
    line = Line(at([a_node()], *[waiting(f"{o}/x/{i}") for o in "ab" for i in range(3)]), POLICY)
    served = []
    for session in line:
        served.append(session.owner)
        line.charge(session)
    assert served == ["a", "b", "a", "b", "a", "b"]


def test_who_waited_longest_is_due_before_all_others() -> None:
    long = waiting("a/x/1", 4, queued=NOW - 2 * HOUR)
    assert order(long, waiting("b/x/1", 1))[0] == "a/x/1"
    assert order(waiting("a/x/1", 4, queued=NOW - HOUR / 2), waiting("b/x/1", 1))[0] == "b/x/1"


def test_nobody_is_due_while_others_that_waited_long_have_their_share() -> None:
    long = waiting("a/x/1", 4, queued=NOW - 2 * HOUR)
    had_waited = holder("b/x/9", ("n1", (0, 1)), waited=1.5 * HOUR)
    assert order(long, had_waited, waiting("c/x/1", 1))[0] == "c/x/1"


def test_beyond_the_longest_wait_nothing_else_counts() -> None:
    longest = waiting("a/x/1", 4, queued=NOW - POLICY.longest - 1)
    had_waited = holder("b/x/9", ("n1", (0, 1)), waited=POLICY.longest)
    assert order(longest, had_waited, waiting("c/x/1", 1))[0] == "a/x/1"


def test_a_priority_is_above_every_wait() -> None:
    assert order(waiting("a/x/1", queued=0.0), waiting("b/x/1", 8, priority=1))[0] == "b/x/1"


def test_cpus_weigh_as_much_as_the_gpus_they_keep_company() -> None:
    assert share(Ask(gpus=2), 1) == 2
    assert share(Ask(cpus=16_000), 1) == 2
    assert share(Ask(), 2) == 0.25


def test_what_was_used_is_forgotten_by_half_in_a_half_life() -> None:
    past = remember({"a": 4.0}, [], POLICY.half_life, POLICY)
    assert past == {"a": 2.0}
    past = remember({}, [holder("b/x/1", ("n1", (0, 1)))], POLICY.half_life, POLICY)
    assert past == {"b": 1.0}
    assert remember({"a": 4.0}, [], 100 * POLICY.half_life, POLICY) == {}
