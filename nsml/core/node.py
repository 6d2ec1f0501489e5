"""A node: what it has, whether it takes work, whether it is still there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from nsml.core import catalogue as c
from nsml.core.errors import NotFound
from nsml.core.messages import Envelope, Message
from nsml.core.resources import Capacity
from nsml.core.subject import Change, Subject


class NodeState(StrEnum):
    READY = "ready"
    DRAINED = "drained"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as recorded; written when its capacity or state changes, not at each heartbeat.

    `drained` outlives a loss: a drained node that comes back is still drained.
    """

    id: str
    state: NodeState
    capacity: Capacity
    boot: str = ""
    version: str = ""
    drained: bool = False
    reason: str = ""
    joined: float = 0.0
    changed: float = 0.0


Rule = Callable[[Node, Any, Envelope], "Change[Node] | None"]


def decide(node: Node | None, envelope: Envelope) -> Change[Node] | None:
    """The change that a message makes to *node*; None when it makes none. Raises `NotFound` for a command."""
    message = envelope.body
    if node is None:
        if isinstance(message, c.NodeReported):
            return _join(message, envelope)
        _absent(message)
        return None
    rule = TRANSITIONS.get((node.state, type(message)))
    return rule(node, message, envelope) if rule else None


def _absent(message: Message) -> None:
    if message.form == "cmd":
        raise NotFound(f"There is no node {getattr(message, 'node', '')}.", hint="See 'nsml node ls'.")


def _join(message: c.NodeReported, envelope: Envelope) -> Change[Node]:
    node = Node(
        id=message.node,
        state=NodeState.READY,
        capacity=message.capacity,
        boot=message.boot,
        version=message.version,
        joined=envelope.at,
        changed=envelope.at,
    )
    return Change(node, ((c.NodeJoined(node=node.id, gpus=len(node.capacity.gpus)), ""),))


def _reported(node: Node, message: c.NodeReported, envelope: Envelope) -> Change[Node] | None:
    same = (node.capacity, node.boot, node.version) == (
        message.capacity,
        message.boot,
        message.version,
    )
    if same:
        return None
    return Change(
        replace(
            node,
            capacity=message.capacity,
            boot=message.boot,
            version=message.version,
            changed=envelope.at,
        )
    )


def _back(node: Node, message: c.NodeReported, envelope: Envelope) -> Change[Node]:
    state = NodeState.DRAINED if node.drained else NodeState.READY
    node = replace(
        node,
        state=state,
        capacity=message.capacity,
        boot=message.boot,
        version=message.version,
        reason="",
        changed=envelope.at,
    )
    return Change(node, ((c.NodeJoined(node=node.id, gpus=len(node.capacity.gpus)), ""),))


def _drain(node: Node, message: c.DrainNode, envelope: Envelope) -> Change[Node]:
    state = node.state if node.state is NodeState.LOST else NodeState.DRAINED
    drained = replace(node, state=state, drained=True, reason=message.reason, changed=envelope.at)
    return Change(drained, ((c.NodeDrained(node=node.id, reason=message.reason), ""),))


def _resume(node: Node, message: c.ResumeNode, envelope: Envelope) -> Change[Node]:
    state = node.state if node.state is NodeState.LOST else NodeState.READY
    resumed = replace(node, state=state, drained=False, reason="", changed=envelope.at)
    return Change(resumed, ((c.NodeResumed(node=node.id), ""),))


def _lose(node: Node, message: c.LoseNode, envelope: Envelope) -> Change[Node]:
    lost = replace(node, state=NodeState.LOST, reason=message.reason, changed=envelope.at)
    return Change(lost, ((c.NodeLost(node=node.id, reason=message.reason), ""),))


TRANSITIONS: Mapping[tuple[NodeState, type[Message]], Rule] = {
    (NodeState.READY, c.NodeReported): _reported,
    (NodeState.DRAINED, c.NodeReported): _reported,
    (NodeState.LOST, c.NodeReported): _back,
    (NodeState.READY, c.LoseNode): _lose,
    (NodeState.DRAINED, c.LoseNode): _lose,
    **{(state, c.DrainNode): _drain for state in NodeState},
    **{(state, c.ResumeNode): _resume for state in NodeState},
}

NODE: Subject[Node] = Subject("node", Node, decide)
