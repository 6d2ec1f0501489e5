"""A node's life: joined, drained, lost, back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fakes import an_envelope
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsml.core import catalogue as c
from nsml.core.errors import NotFound
from nsml.core.messages import Message
from nsml.core.node import TRANSITIONS, Node, NodeState, decide
from nsml.core.resources import Capacity, Gpu

CAPACITY = Capacity(gpus=(Gpu(index=0, uuid="GPU-0"),), cpus=4.0, memory=1 << 30)
REPORT = c.NodeReported(node="n1", boot="b1", capacity=CAPACITY, version="1")
DRAIN, RESUME = c.DrainNode(node="n1", reason="disk"), c.ResumeNode(node="n1")
LOSE = c.LoseNode(node="n1", reason="silent")


def after(*messages: Message) -> Node:
    node: Node | None = None
    for message in messages:
        change = decide(node, an_envelope(message))
        node = change.body if change else node
    assert node
    return node


def test_the_first_report_is_a_join() -> None:
    change = decide(None, an_envelope(REPORT))
    assert change
    assert change.body.state is NodeState.READY
    assert change.owes == ((c.NodeJoined(node="n1", gpus=1), ""),)


def test_a_report_that_tells_nothing_new_is_not_written() -> None:
    assert decide(after(REPORT), an_envelope(REPORT)) is None


@pytest.mark.parametrize(
    "news", [{"boot": "b2"}, {"version": "2"}, {"capacity": replace(CAPACITY, cpus=8.0)}]
)
def test_a_report_that_tells_something_new_is(news: dict[str, object]) -> None:
    change = decide(after(REPORT), an_envelope(replace(REPORT, **news)))  # type: ignore[arg-type]
    assert change
    assert change.body.state is NodeState.READY


def test_a_lost_node_that_reports_is_back() -> None:
    assert after(REPORT, LOSE).state is NodeState.LOST
    assert after(REPORT, LOSE, REPORT).state is NodeState.READY


def test_a_drained_node_stays_drained_through_a_loss() -> None:
    assert after(REPORT, DRAIN, LOSE).state is NodeState.LOST
    assert after(REPORT, DRAIN, LOSE, REPORT).state is NodeState.DRAINED
    assert after(REPORT, LOSE, DRAIN, REPORT).state is NodeState.DRAINED
    assert after(REPORT, DRAIN, LOSE, RESUME, REPORT).state is NodeState.READY


def test_draining_tells_why() -> None:
    change = decide(after(REPORT), an_envelope(DRAIN))
    assert change
    assert (change.body.reason, change.owes) == ("disk", ((c.NodeDrained(node="n1", reason="disk"), ""),))


def test_an_unknown_node_is_not_found_but_its_loss_is_old_news() -> None:
    with pytest.raises(NotFound, match="no node n1"):
        decide(None, an_envelope(DRAIN))
    assert decide(None, an_envelope(LOSE)) is None


def test_only_a_loss_of_what_is_lost_has_no_rule() -> None:
    messages = (c.NodeReported, c.DrainNode, c.ResumeNode, c.LoseNode)
    missing = {(s, m) for s in NodeState for m in messages if (s, m) not in TRANSITIONS}
    assert missing == {(NodeState.LOST, c.LoseNode)}


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(min_value=0, max_value=2**48))
def test_whether_a_node_is_drained_depends_on_the_last_word_of_a_person(seed: int) -> None:
    chance = random.Random(seed)
    history = [REPORT, *chance.choices([REPORT, DRAIN, RESUME, LOSE], k=12)]
    node = after(*history)
    words = [m for m in history if m in (DRAIN, RESUME)]
    assert node.drained == (bool(words) and words[-1] is DRAIN)
    assert (node.state is NodeState.DRAINED) == (node.drained and node.state is not NodeState.LOST)
