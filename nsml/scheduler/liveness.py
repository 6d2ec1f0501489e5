"""What should be there and is not, and what is there and should not be: silent nodes, lost attempts, strays.

Orders are sent when something changes; here it is compared again and again what is recorded with what the
nodes list, so that nothing hangs on a single message. All that is decided here can be decided again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nsml.core import catalogue as c
from nsml.core.messages import Message
from nsml.core.node import Node, NodeState
from nsml.core.session import HOLDING, Session, State, start_of
from nsml.scheduler.policy import Patience

Held = tuple[str, int, int]  # session, attempt, rank
FEW = 3  # below so many nodes, half of them being silent says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """When a node was last heard of (monotonic seconds), and what it held then: attempt → has it ended."""

    at: float
    held: Mapping[Held, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """All that is known at `now` (monotonic); we lead since `since`. `doubts` tells since when each attempt
    has been in a state that it should not be in."""

    now: float
    since: float
    nodes: tuple[Node, ...]
    sessions: Mapping[str, Session]
    sights: Mapping[str, Sight]
    doubts: Mapping[tuple[str, Held], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Nodes and attempts to give up, orders to send again, doubts to keep, and what people should know."""

    lose: tuple[c.LoseNode, ...] = ()
    lost: tuple[c.AttemptLost, ...] = ()
    send: tuple[tuple[Message, str], ...] = ()
    doubts: Mapping[tuple[str, Held], float] = field(default_factory=dict)
    alarm: str = ""


def examine(watch: Watch, patience: Patience) -> Findings:
    """What *watch* gives reason to do."""
    overdue = [node for node in watch.nodes if _is_overdue(watch, node, patience)]
    known = [node for node in watch.nodes if node.state is not NodeState.LOST]
    alarm = _alarm(overdue, known, patience)
    lose = () if alarm else tuple(_lose(watch, node) for node in overdue)
    gone = {node.id: node.reason for node in watch.nodes if node.state is NodeState.LOST}
    gone |= {order.node: order.reason for order in lose}
    doubts = _doubts(watch, gone)
    lost = (*_lost_with_node(watch, gone), *_lost_alone(watch, doubts, patience))
    send = (*_again(watch, doubts, patience), *_strays(watch))
    return Findings(lose=lose, lost=lost, send=send, doubts=doubts, alarm=alarm)


# -- nodes ---------------------------------------------------------------------------------------------
def _is_overdue(watch: Watch, node: Node, patience: Patience) -> bool:
    if node.state is NodeState.LOST or watch.now - watch.since < patience.amnesty:
        return False
    sight = watch.sights.get(node.id)
    heard = max(sight.at, watch.since) if sight else watch.since
    return watch.now - heard > patience.silent


def _alarm(overdue: list[Node], known: list[Node], patience: Patience) -> str:
    """A sentence when so many nodes are silent that it is hardly their fault."""
    if not overdue:
        return ""
    many = len(known) >= FEW and len(overdue) >= patience.guard * len(known)
    if many or len(overdue) == len(known):
        names = ", ".join(node.id for node in overdue[:FEW])
        return f"{len(overdue)} of {len(known)} nodes are silent at once ({names} …): nothing is given up."
    return ""


def _lose(watch: Watch, node: Node) -> c.LoseNode:
    sight = watch.sights.get(node.id)
    seconds = watch.now - (sight.at if sight else watch.since)
    return c.LoseNode(node=node.id, reason=f"{node.id} has been silent for {seconds:.0f} s")


def _lost_with_node(watch: Watch, gone: Mapping[str, str]) -> Iterator[c.AttemptLost]:
    for session in watch.sessions.values():
        for node in sorted({session.slots[rank].node for rank in session.left}):
            if node in gone:
                reason = f"the node was lost: {gone[node]}"
                yield c.AttemptLost(session=session.id, attempt=session.attempt, node=node, reason=reason)


# -- attempts ------------------------------------------------------------------------------------------
def _expected(watch: Watch, gone: Mapping[str, str]) -> Iterator[tuple[str, Held]]:
    for session in watch.sessions.values():
        for rank in session.left:
            node = session.slots[rank].node
            if node not in gone and node in watch.sights:
                yield node, (session.id, session.attempt, rank)


def _doubts(watch: Watch, gone: Mapping[str, str]) -> dict[tuple[str, Held], float]:
    """The attempts which their nodes do not list, or list as ended, and since when that is so."""
    return {
        (node, held): watch.doubts.get((node, held), watch.now)
        for node, held in _expected(watch, gone)
        if watch.sights[node].held.get(held, True)
    }


def _lost_alone(
    watch: Watch, doubts: Mapping[tuple[str, Held], float], patience: Patience
) -> Iterator[c.AttemptLost]:
    for (node, held), since in doubts.items():
        session = watch.sessions[held[0]]
        listed = held in watch.sights[node].held
        bound = patience.untold if listed else patience.missing
        if watch.now - since <= bound or watch.sights[node].at <= since:
            continue
        if listed or session.state is not State.PLACED:
            reason = f"{node} never told how it ended" if listed else f"{node} does not have it any more"
            yield c.AttemptLost(session=session.id, attempt=session.attempt, node=node, reason=reason)


def _again(
    watch: Watch, doubts: Mapping[tuple[str, Held], float], patience: Patience
) -> Iterator[tuple[Message, str]]:
    """Starts that did not arrive."""
    for (node, held), since in doubts.items():
        session = watch.sessions[held[0]]
        if session.state is not State.PLACED or held in watch.sights[node].held:
            continue
        if watch.now - since > patience.unstarted and watch.sights[node].at > since:
            yield start_of(session, held[2]), node


def _strays(watch: Watch) -> Iterator[tuple[Message, str]]:
    """Orders to end what a node holds and nobody wants, and to forget what ended."""
    for node, sight in watch.sights.items():
        for (name, attempt, rank), ended in sight.held.items():
            if _is_wanted(watch.sessions.get(name), attempt, rank, node):
                continue
            if ended:
                yield c.ReapAttempt(session=name, attempt=attempt), node
            else:
                yield c.StopAttempt(session=name, attempt=attempt, grace=0.0), node


def _is_wanted(session: Session | None, attempt: int, rank: int, node: str) -> bool:
    if session is None or session.state not in HOLDING or session.attempt != attempt:
        return False
    return rank in session.left and session.slots[rank].node == node


def sight_of(report: c.NodeReported, at: float) -> Sight:
    """What *report*, which came at *at*, tells of attempts."""
    held: Iterable[c.Holding] = report.held
    return Sight(at=at, held={(h.session, h.attempt, h.rank): h.ended for h in held})
