"""What memory knows of active sessions, whatever the order in which it learns it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snapshots import a_node

from nsml.core import catalogue as c
from nsml.core.plain import plain
from nsml.core.resources import Slot
from nsml.core.session import Session, State
from nsml.core.subject import Document
from nsml.scheduler.index import Index

SESSION = Session(id="a/x/1", owner="a", dataset="x", state=State.QUEUED, run=c.Run(code="c"))


def document(version: int, **changes: Any) -> Document:
    session = replace(SESSION, **changes)
    return Document(key=f"session/{session.id}", body=plain(session), version=version)


def placed(version: int) -> Document:
    return document(version, state=State.PLACED, slots=(Slot(node="n1"),), attempt=1)


def test_a_session_waits_then_holds_then_is_gone() -> None:
    index = Index()
    index.put(document(1))
    assert set(index.waiting) == {"a/x/1"}
    index.put(placed(2))
    assert (set(index.waiting), set(index.holders)) == (set(), {"a/x/1"})
    index.put(document(3, state=State.COMPLETED))
    assert index.sessions == {}


def test_an_older_version_that_comes_late_changes_nothing() -> None:
    index = Index()
    index.put(document(3, state=State.COMPLETED))
    index.put(placed(2))
    assert index.sessions == {}


def test_a_scan_from_before_a_session_ended_does_not_bring_it_back() -> None:
    index = Index()
    index.put(placed(2))
    index.begin()
    index.put(document(3, state=State.COMPLETED))
    assert index.compare([placed(2)]) == []
    assert index.sessions == {}


def test_what_the_store_does_not_list_as_active_has_to_be_looked_up() -> None:
    index = Index()
    index.put(placed(2))
    index.begin()
    assert index.compare([]) == ["a/x/1"]


def test_nodes_are_kept_too() -> None:
    index = Index()
    index.put(Document(key="node/n1", body=plain(a_node()), version=1))
    assert set(index.nodes) == {"n1"}
