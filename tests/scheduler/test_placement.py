"""Plans: who starts where, who gives way, what is kept back; and what holds for any cluster and queue."""

from __future__ import annotations

import heapq
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshots import NOW, a_node, anything, at, holder, waiting

from nsml.core.node import NodeState
from nsml.core.resources import has_model
from nsml.scheduler.feasible import Space, fits, join
from nsml.scheduler.placement import Plan, plan
from nsml.scheduler.policy import Fairness, Placing
from nsml.scheduler.snapshot import Holder, Snapshot, Waiting

POLICY = Placing()
WHERE = dict[str, tuple[str, ...]]


def where(made: Plan) -> WHERE:
    return {place.session: tuple(slot.node for slot in place.slots) for place in made.places}


def placed(*args: object) -> WHERE:
    return where(plan(at(*args), POLICY))  # type: ignore[arg-type]


# -- where -----------------------------------------------------------------------------------------------
def test_a_session_gets_as_many_gpus_as_it_asked_for() -> None:
    (place,) = plan(at([a_node()], waiting("a/x/1", 2)), POLICY).places
    assert len(place.slots[0].gpus) == 2


def test_a_session_without_gpus_needs_none() -> None:
    assert placed([a_node(gpus=0)], waiting("a/x/1", 0)) == {"a/x/1": ("n1",)}


def test_what_is_not_asked_for_is_not_reserved() -> None:
    queue = [waiting(f"a/x/{i}", 0) for i in range(50)]
    assert len(placed([a_node(cpus=1.0)], *queue)) == 50


def test_nodes_are_filled_up_before_others_are_opened() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    assert placed(nodes, holder("b/x/1", ("n2", (0,))), waiting("a/x/1"))["a/x/1"] == ("n2",)


def test_a_small_request_leaves_the_large_hole_alone() -> None:
    nodes = [a_node("n1", gpus=8), a_node("n2", gpus=8)]
    busy = holder("b/x/1", ("n1", (0, 1, 2, 3, 4, 5)))
    assert placed(nodes, busy, waiting("a/x/1", 2))["a/x/1"] == ("n1",)


def test_scarce_models_are_kept_for_those_who_name_them() -> None:
    nodes = [a_node("n1", model="P40"), a_node("n2", model="V100")]
    named = [waiting(f"b/x/{i}", 1, gpu_model="V100") for i in range(3)]
    found = placed(nodes, *named, waiting("a/x/1"))
    assert found["a/x/1"] == ("n1",)
    assert {found[s.id] for s in named} == {("n2",)}


def test_a_session_goes_to_where_its_data_lies() -> None:
    nodes = [a_node(f"n{i}") for i in range(1, 6)]
    session = waiting("a/x/1", data=(("d" * 64, 50 << 30),))
    made = plan(at(nodes, session, n4=frozenset({"d" * 64})), POLICY)
    assert where(made)["a/x/1"] == ("n4",)


def test_a_gang_starts_on_distinct_nodes_or_not_at_all() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    assert set(placed(nodes, waiting("a/x/1", 4, nodes=2))["a/x/1"]) == {"n1", "n2"}
    assert placed(nodes, holder("b/x/1", ("n2", (0,))), waiting("a/x/1", 4, nodes=2)) == {}


def test_a_node_that_is_drained_or_lost_or_ill_gets_nothing() -> None:
    ill = a_node("n3")
    gpus = tuple(type(g)(index=g.index, uuid=g.uuid, healthy=False) for g in ill.capacity.gpus)
    ill = type(ill)(
        id="n3", state=NodeState.READY, capacity=type(ill.capacity)(gpus=gpus, cpus=1.0, memory=1)
    )
    nodes = [a_node("n1", state=NodeState.DRAINED), a_node("n2", state=NodeState.LOST), ill]
    assert placed(nodes, waiting("a/x/1")) == {}


def test_cpus_and_memory_that_are_asked_for_must_be_there() -> None:
    node = a_node(cpus=8.0)
    assert placed([node], holder("b/x/1", ("n1", ()), cpus=4.0), waiting("a/x/1", 0, cpus=6.0)) == {}
    assert placed([node], holder("b/x/1", ("n1", ()), cpus=2.0), waiting("a/x/1", 0, cpus=6.0)) != {}


# -- who -------------------------------------------------------------------------------------------------
def test_the_higher_priority_is_served_first() -> None:
    queue = [waiting("a/x/1", 4, queued=NOW - 100), waiting("b/x/1", 4, priority=1)]
    assert set(placed([a_node()], *queue)) == {"b/x/1"}


def test_who_uses_less_is_served_first() -> None:
    nodes = [a_node("n1"), a_node("n2", gpus=1)]
    queue = [waiting("a/x/2", queued=NOW - 100), waiting("b/x/1", queued=NOW - 1)]
    assert set(placed(nodes, holder("a/x/1", ("n1", (0, 1, 2, 3))), *queue)) == {"b/x/1"}


def test_among_equals_the_older_is_served_first() -> None:
    queue = [waiting("b/x/1", queued=NOW - 1), waiting("a/x/1", queued=NOW - 100)]
    assert set(placed([a_node(gpus=1)], *queue)) == {"a/x/1"}


# -- reservations ----------------------------------------------------------------------------------------
def test_what_comes_later_does_not_delay_the_one_that_is_next() -> None:
    nodes = [a_node("n1")]
    queue = [waiting("a/x/2", 4, queued=NOW - 8000), waiting("b/x/1", 1)]
    made = plan(at(nodes, holder("a/x/1", ("n1", (0,))), *queue), POLICY)
    assert where(made) == {}
    assert [(keep.session, keep.node) for keep in made.kept] == [("a/x/2", "n1")]


def test_what_the_next_one_does_not_need_is_given_to_others() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    busy = [holder("a/x/1", ("n1", (0,))), holder("a/x/3", ("n2", (0, 1)))]
    queue = [waiting("a/x/2", 4, queued=NOW - 8000), waiting("b/x/1", 2), waiting("c/x/1", 0)]
    found = placed(nodes, *busy, *queue)
    assert found["b/x/1"] == ("n2",)
    assert "c/x/1" in found


# -- preemption ------------------------------------------------------------------------------------------
def victims(made: Plan) -> set[str]:
    return {preempt.session for preempt in made.preempts}


def test_a_lower_priority_gives_way_and_the_room_is_kept() -> None:
    low = holder("a/x/1", ("n1", (0, 1, 2)))
    queue = [waiting("b/x/1", 4, priority=1), waiting("c/x/1", 1)]
    made = plan(at([a_node()], low, *queue), POLICY)
    assert (victims(made), where(made)) == ({"a/x/1"}, {})


def test_an_equal_or_higher_priority_never_gives_way() -> None:
    for priority in (1, 2):
        full = holder("a/x/1", ("n1", (0, 1, 2, 3)), priority=priority)
        assert not plan(at([a_node()], full, waiting("b/x/1", 4, priority=1)), POLICY).preempts


def test_the_least_work_is_lost() -> None:
    nodes = [a_node("n1", gpus=1), a_node("n2", gpus=1)]
    old = holder("a/x/1", ("n1", (0,)), safe=NOW - 5000)
    saved = holder("a/x/2", ("n2", (0,)), safe=NOW - 5)
    assert victims(plan(at(nodes, old, saved, waiting("b/x/1", 1, priority=1)), POLICY)) == {"a/x/2"}


def test_no_more_give_way_than_needed() -> None:
    small = [holder(f"a/x/{i}", ("n1", (i,)), safe=NOW - 10 * i - 1) for i in range(2)]
    large = holder("a/x/9", ("n1", (2, 3)), safe=NOW - 50)
    assert victims(plan(at([a_node()], *small, large, waiting("b/x/1", 2, priority=1)), POLICY)) == {
        "a/x/0",
        "a/x/1",
    }


def test_nobody_gives_way_in_vain() -> None:
    low, high = holder("a/x/1", ("n1", (0,))), holder("a/x/2", ("n1", (1,)), priority=9)
    assert not plan(at([a_node()], low, high, waiting("b/x/1", 4, priority=1)), POLICY).preempts


def test_whoever_is_leaving_already_is_enough() -> None:
    leaving = holder("a/x/1", ("n1", (0, 1)), leaving=True)
    low = holder("a/x/2", ("n1", (2, 3)))
    made = plan(at([a_node()], leaving, low, waiting("b/x/1", 2, priority=1)), POLICY)
    assert not made.preempts
    assert [keep.session for keep in made.kept] == ["b/x/1"]


def test_a_gang_makes_room_on_all_of_its_nodes() -> None:
    nodes = [a_node("n1"), a_node("n2"), a_node("n3")]
    low = [holder("a/x/1", ("n1", (0,))), holder("a/x/2", ("n2", (0,)))]
    made = plan(at(nodes, *low, waiting("b/x/1", 4, nodes=3, priority=1)), POLICY)
    assert victims(made) == {"a/x/1", "a/x/2"}


# -- any cluster, any queue --------------------------------------------------------------------------------
ANY = st.integers(min_value=0, max_value=2**48)
MANY = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@MANY
@given(ANY)
def test_nothing_is_given_out_twice_or_in_parts_or_where_it_may_not_be(seed: int) -> None:
    nodes, queue, holders = anything(seed)
    now = at(nodes, *queue, *holders)
    made = plan(now, POLICY)
    hosts = {host.id: host for host in now.hosts}
    free = {host.id: {index for index, _ in host.gpus} for host in now.hosts}
    cpus = {host.id: host.cpus for host in now.hosts}
    memory = {host.id: host.memory for host in now.hosts}
    sessions = {session.id: session for session in queue}
    for place in made.places:
        session = sessions[place.session]
        assert len({slot.node for slot in place.slots}) == len(place.slots) == session.nodes
        for slot in place.slots:
            host = hosts[slot.node]
            assert not host.closed
            assert len(slot.gpus) == session.ask.gpus
            assert set(slot.gpus) <= free[slot.node], "a GPU given out twice"
            free[slot.node] -= set(slot.gpus)
            models = {gpu.index: gpu.model for gpu in host.capacity.gpus}
            assert all(has_model(models[i], session.request.gpu_model) for i in slot.gpus)
            cpus[slot.node] -= session.ask.cpus
            memory[slot.node] -= session.ask.memory
            assert cpus[slot.node] >= 0 or not session.ask.cpus
            assert memory[slot.node] >= 0 or not session.ask.memory
    assert {p.session for p in made.places}.isdisjoint(w.id for w in made.waiting)
    assert len(made.places) + len(made.waiting) == len(queue)


@MANY
@given(ANY)
def test_nobody_waits_for_what_a_lower_priority_was_given(seed: int) -> None:
    nodes, queue, holders = anything(seed)
    now = at(nodes, *queue, *holders)
    made = plan(now, POLICY)
    priorities = {session.id: session.priority for session in queue}
    for session in made.waiting:
        if session.nodes > 1:
            continue
        others = {s for s, priority in priorities.items() if priority >= session.priority}
        for host in now.hosts:
            if not host.closed:
                assert not fits(session.ask, _left(now, made, host.id, others))


def _left(now: Snapshot, made: Plan, node: str, others: set[str]) -> Space:
    """What is free on *node* once the places of *others*, and what is kept for them, are taken off."""
    host = next(host for host in now.hosts if host.id == node)
    sessions = {session.id: session for session in now.waiting}
    gpus, cpus, memory = dict(host.gpus), host.cpus, host.memory
    for place in made.places:
        for slot in place.slots:
            if slot.node == node and place.session in others:
                for index in slot.gpus:
                    del gpus[index]
                cpus -= sessions[place.session].ask.cpus
                memory -= sessions[place.session].ask.memory
    models = [m for m in gpus.values()]
    for keep in made.kept:
        if keep.node == node and keep.session in others:
            for model in keep.space.models:
                if model in models:
                    models.remove(model)
            cpus -= keep.space.cpus
            memory -= keep.space.memory
    return Space(tuple(models), (1000,) * len(models), cpus, memory)


@MANY
@given(ANY)
def test_only_lower_priorities_give_way_each_once(seed: int) -> None:
    nodes, queue, holders = anything(seed)
    made = plan(at(nodes, *queue, *holders), POLICY)
    sessions: dict[str, Waiting | Holder] = {s.id: s for s in (*queue, *holders)}
    for preempt in made.preempts:
        victim, wanted_by = sessions[preempt.session], sessions[preempt.wanted_by]
        assert isinstance(victim, Holder)
        assert not victim.leaving
        assert victim.priority < wanted_by.priority
    assert len({p.session for p in made.preempts}) == len(made.preempts)


@MANY
@given(ANY)
def test_the_same_cluster_gives_the_same_plan_however_it_is_listed(seed: int) -> None:
    nodes, queue, holders = anything(seed)
    first = plan(at(nodes, *queue, *holders), POLICY)
    for things in (nodes, queue, holders):
        random.Random(seed).shuffle(things)  # type: ignore[arg-type]
    second = plan(at(nodes, *queue, *holders), POLICY)
    assert (first.places, first.preempts, first.kept) == (second.places, second.preempts, second.kept)


@settings(MANY, max_examples=25)
@given(ANY)
def test_a_big_session_is_not_starved_by_an_endless_stream_of_small_ones(seed: int) -> None:
    """Sessions run up to 10 s and more come than there is room for: the gang must start soon after
    it has waited for as long as anybody should."""
    chance = random.Random(seed)
    policy = Placing(fairness=Fairness(patience=20.0, longest=60.0))
    nodes = [a_node(f"n{i}", gpus=4) for i in range(4)]
    big = waiting("z/big/1", 4, nodes=3, queued=0.0)
    queue = {big.id: big}
    running: dict[str, Holder] = {}
    ends: list[tuple[float, str]] = []
    for second in range(120):
        for number in range(chance.randrange(4, 9)):
            small = waiting(f"{chance.choice('abc')}/s/{second}-{number}", 1, queued=float(second))
            queue[small.id] = small
        while ends and ends[0][0] <= second:
            del running[heapq.heappop(ends)[1]]
        made = plan(at(nodes, *queue.values(), *running.values(), now=float(second)), policy)
        if big.id in where(made):
            return
        for place in made.places:
            session = queue.pop(place.session)
            slots = [(slot.node, slot.gpus) for slot in place.slots]
            running[session.id] = holder(session.id, *slots, waited=second - session.queued, safe=0.0)
            heapq.heappush(ends, (second + chance.uniform(1, 10), session.id))
    raise AssertionError("it never started")


def test_joined_spaces_hold_both() -> None:
    one, two = Space(("A",), (500,), 1000, 5), Space(("A", "B"), (1000, 1000), 2000, 6)
    assert join(one, two) == Space(("A", "A", "B"), (1000, 500, 1000), 3000, 11)
