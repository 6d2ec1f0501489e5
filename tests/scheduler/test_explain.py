"""What a waiting session is told, and the smallest change that would start it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshots import NOW, a_node, anything, at, holder, waiting

from nsml.core.node import Node, NodeState
from nsml.core.resources import GIB
from nsml.scheduler.explain import Reason, explain, some
from nsml.scheduler.feasible import ask_of
from nsml.scheduler.placement import plan
from nsml.scheduler.policy import Placing
from nsml.scheduler.snapshot import Holder, Waiting

POLICY = Placing()


def told(nodes: list[Node], *sessions: Waiting | Holder) -> dict[str, Reason]:
    now = at(nodes, *sessions)
    return {reason.session: reason for reason in explain(now, plan(now, POLICY), 1000)}


def test_too_few_gpus() -> None:
    full = holder("b/x/1", ("n1", (0, 1, 2, 3)))
    reason = told([a_node(gpus=8)], full, waiting("a/x/1", 8))["a/x/1"]
    assert reason.reason.startswith("8 GPUs wanted, largest free node has 4")
    assert reason.nearest == "with 4 GPUs instead of 8"


def test_no_gpu_free_until_somebody_ends() -> None:
    full = [holder("b/x/1", ("n1", (0, 1, 2))), holder("b/x/2", ("n1", (3,)))]
    reason = told([a_node()], *full, waiting("a/x/1", 1))["a/x/1"]
    assert reason.reason.startswith("1 GPU wanted, none is free")
    assert reason.nearest in ("when b/x/1 ends", "when b/x/2 ends")


def test_several_have_to_end() -> None:
    full = [holder(f"b/x/{i}", ("n1", (i,))) for i in range(4)]
    reason = told([a_node()], *full, waiting("a/x/1", 2))["a/x/1"]
    assert reason.nearest == "when b/x/0 and b/x/1 end"


def test_memory_and_cpus() -> None:
    busy = holder("b/x/1", ("n1", ()), memory=60 * GIB)
    reason = told([a_node()], busy, waiting("a/x/1", 1, memory=8 * GIB))["a/x/1"]
    assert reason.reason.startswith("8 GB of memory wanted, 4 GB free")
    assert reason.nearest == "without --memory 8G"
    busy = holder("b/x/1", ("n1", ()), cpus=15.0)
    reason = told([a_node()], busy, waiting("a/x/1", 1, cpus=4.0))["a/x/1"]
    assert reason.reason.startswith("4 CPUs wanted, 1 free")
    assert reason.nearest == "without -c 4"


def test_the_model() -> None:
    nodes = [a_node("n1", model="V100"), a_node("n2", model="P40", gpus=1)]
    full = holder("b/x/1", ("n2", (0,)))
    reason = told(nodes, full, waiting("a/x/1", 1, gpu_model="P40"))["a/x/1"]
    assert reason.reason.startswith("1 P40 GPU wanted, none is free")
    assert reason.nearest == "with any GPU instead of P40"


def test_a_drained_and_a_lost_node() -> None:
    for state, back in ((NodeState.DRAINED, "takes work again"), (NodeState.LOST, "is back")):
        reason = told([a_node(state=state)], waiting("a/x/1"))["a/x/1"]
        assert reason.reason == f"the node n1 is {state}"
        assert reason.nearest == f"when the node n1 {back}"


def test_no_node_at_all_or_none_large_enough() -> None:
    assert told([], waiting("a/x/1"))["a/x/1"].reason == "no node has joined yet"
    reason = told([a_node()], waiting("a/x/1", 9))["a/x/1"]
    assert reason.reason == "the only node, n1, is too small: 9 GPUs wanted, it has 4"
    assert reason.nearest == "with 4 GPUs instead of 9"


def test_a_gang() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    full = holder("b/x/1", ("n2", (0,)))
    reason = told(nodes, full, waiting("a/x/1", 4, nodes=2))["a/x/1"]
    assert reason.reason.startswith("2 nodes wanted, 1 has room now")
    assert reason.nearest == "with 3 GPUs instead of 4"


def test_who_is_behind_a_reservation_is_told_for_whom() -> None:
    busy = holder("b/x/1", ("n1", (0,)))
    queue = [waiting("a/x/1", 4, queued=NOW - 8000), waiting("c/x/1", 1)]
    reasons = told([a_node()], busy, *queue)
    assert "it is next: what gets free on n1 is kept for it" in reasons["a/x/1"].reason
    assert reasons["a/x/1"].nearest == "with 3 GPUs instead of 4"
    assert reasons["c/x/1"].reason == "what is free on n1 is kept for a/x/1, which is before it"
    assert reasons["c/x/1"].nearest is not None


def test_who_is_being_made_room_for_is_told_by_whom() -> None:
    low = holder("a/x/1", ("n1", (0, 1, 2, 3)))
    reason = told([a_node()], low, waiting("b/x/1", 4, priority=1))["b/x/1"]
    assert reason.reason == "a/x/1 makes room for it on n1"
    assert reason.nearest == "when a/x/1 ends"


def test_many_names_are_not_all_told() -> None:
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b and c"
    assert some(list("abcdef")) == "a, b, c and 3 more"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(min_value=0, max_value=2**48))
def test_everybody_who_waits_is_told_something_and_fewer_gpus_would_really_do(seed: int) -> None:
    nodes, queue, holders = anything(seed)
    now = at(nodes, *queue, *holders)
    made = plan(now, POLICY)
    reasons = {reason.session: reason for reason in explain(now, made, 1000)}
    assert set(reasons) == {session.id for session in made.waiting}
    assert all(reason.reason for reason in reasons.values())
    for session in made.waiting:
        nearest = reasons[session.id].nearest or ""
        if nearest.startswith("with ") and "GPU" in nearest and "any" not in nearest and not made.kept:
            fewer = replace(session.request, gpus=int(nearest.split()[1]))
            assert len(made.floor.ready(ask_of(fewer), fewer.nodes)) >= fewer.nodes
