"""What silence means: nodes to give up, orders to send again, and when to believe that it is us."""

from __future__ import annotations

from typing import Any

from snapshots import a_node

from nsml.core import catalogue as c
from nsml.core.node import Node, NodeState
from nsml.core.resources import Slot
from nsml.core.session import Session, State, start_of
from nsml.scheduler.liveness import Findings, Sight, Watch, examine
from nsml.scheduler.policy import Patience

PATIENCE = Patience()
LONG = 1000.0
HELD = ("a/x/1", 1, 0)


def a_session(state: State = State.RUNNING, node: str = "n1", name: str = "a/x/1") -> Session:
    slots = (Slot(node=node, gpus=(0,)),) if state is not State.QUEUED else ()
    return Session(
        id=name,
        owner="a",
        dataset="x",
        state=state,
        run=c.Run(code="c"),
        attempt=1,
        slots=slots,
        left=tuple(range(len(slots))),
    )


def look(
    sights: dict[str, Sight], *sessions: Session, nodes: tuple[Node, ...] = (), **changes: Any
) -> Findings:
    values: dict[str, Any] = {"now": LONG, "since": 0.0, **changes}
    watch = Watch(
        nodes=nodes or tuple(a_node(name) for name in sights),
        sessions={session.id: session for session in sessions},
        sights=sights,
        **values,
    )
    return examine(watch, PATIENCE)


def nodes(count: int, silent: int) -> dict[str, Sight]:
    return {f"n{i}": Sight(at=LONG - (100 if i < silent else 1)) for i in range(count)}


def test_a_silent_node_is_lost_with_what_it_held() -> None:
    found = look(nodes(4, 1), a_session(node="n0"), a_session(node="n1", name="a/x/2", state=State.PLACED))
    assert [(order.node, order.reason) for order in found.lose] == [("n0", "n0 has been silent for 100 s")]
    assert [(lost.session, lost.node) for lost in found.lost] == [("a/x/1", "n0")]
    assert not found.alarm


def test_half_of_the_nodes_silent_at_once_is_hardly_their_fault() -> None:
    for count, silent in ((4, 2), (3, 3), (1, 1), (2, 2)):
        found = look(nodes(count, silent), a_session(node="n0"))
        assert (found.lose, found.lost) == ((), ())
        assert f"{silent} of {count} nodes are silent at once" in found.alarm


def test_one_of_two_nodes_may_be_lost() -> None:
    assert len(look(nodes(2, 1)).lose) == 1


def test_after_taking_over_nobody_is_lost_for_a_while() -> None:
    silent = {"n0": Sight(at=LONG - 1)}
    found = look(silent, nodes=(a_node("n0"), a_node("n1")), since=LONG - 50)
    assert not found.lose
    found = look(silent, nodes=(a_node("n0"), a_node("n1")), since=LONG - 61)
    assert [order.node for order in found.lose] == ["n1"]


def test_what_a_lost_node_held_is_lost_even_if_we_died_in_between() -> None:
    gone = a_node("n1", state=NodeState.LOST, reason="silent")
    found = look({"n2": Sight(at=LONG)}, a_session(), nodes=(gone, a_node("n2")))
    assert [lost.session for lost in found.lost] == ["a/x/1"]
    assert not found.lose


def test_a_start_that_a_node_does_not_list_is_sent_again_after_a_while() -> None:
    session = a_session(State.PLACED)
    first = look({"n1": Sight(at=LONG)}, session)
    assert first.send == ()
    assert first.doubts == {("n1", HELD): LONG}
    later = look({"n1": Sight(at=LONG + 11)}, session, doubts=first.doubts, now=LONG + 11)
    assert later.send == ((start_of(session, 0), "n1"),)
    assert not later.lost


def test_nothing_is_concluded_from_a_report_older_than_the_doubt() -> None:
    session = a_session(State.PLACED)
    found = look({"n1": Sight(at=LONG - 1)}, session, doubts={("n1", HELD): LONG}, now=LONG + 25)
    assert (found.send, found.lost) == ((), ())


def test_what_ran_and_is_not_there_any_more_is_lost() -> None:
    doubts = {("n1", HELD): LONG}
    found = look({"n1": Sight(at=LONG + 21)}, a_session(), doubts=doubts, now=LONG + 21)
    assert [lost.reason for lost in found.lost] == ["n1 does not have it any more"]


def test_what_ended_without_telling_is_lost_in_the_end() -> None:
    doubts = {("n1", HELD): LONG}
    ended = {HELD: True}
    assert not look({"n1": Sight(at=LONG + 30, held=ended)}, a_session(), doubts=doubts, now=LONG + 30).lost
    found = look({"n1": Sight(at=LONG + 61, held=ended)}, a_session(), doubts=doubts, now=LONG + 61)
    assert [lost.reason for lost in found.lost] == ["n1 never told how it ended"]


def test_a_doubt_ends_when_the_node_lists_the_attempt() -> None:
    found = look({"n1": Sight(at=LONG, held={HELD: False})}, a_session(), doubts={("n1", HELD): LONG - 9})
    assert found == Findings()


def test_strays_are_ended_and_what_ended_is_forgotten() -> None:
    held = {("b/x/1", 1, 0): False, ("b/x/2", 3, 0): True, HELD: False, ("a/x/1", 0, 0): False}
    found = look({"n1": Sight(at=LONG, held=held)}, a_session())
    assert set(found.send) == {
        (c.StopAttempt(session="b/x/1", attempt=1, grace=0.0), "n1"),
        (c.ReapAttempt(session="b/x/2", attempt=3), "n1"),
        (c.StopAttempt(session="a/x/1", attempt=0, grace=0.0), "n1"),
    }


def test_an_attempt_on_another_node_than_its_own_is_a_stray() -> None:
    sights = {"n1": Sight(at=LONG, held={HELD: False}), "n2": Sight(at=LONG, held={HELD: False})}
    assert [node for _, node in look(sights, a_session()).send] == ["n2"]
