"""Datasets: each push a new version, a removed name goes on counting."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import an_envelope

from nsml.core import catalogue as c
from nsml.core.dataset import Dataset, decide
from nsml.core.errors import NotFound, Refused
from nsml.core.messages import Message

PUSH = c.PushDataset(owner="alice", dataset="digits", tree="t1", files=2, bytes=10)
REMOVE = c.RemoveDataset(owner="alice", dataset="digits")


def after(*messages: Message) -> Dataset:
    dataset: Dataset | None = None
    for message in messages:
        change = decide(dataset, an_envelope(message))
        assert change
        assert change.owes, "a command that nobody answers"
        dataset = change.body
    assert dataset
    return dataset


def test_the_first_push_is_version_1() -> None:
    dataset = after(PUSH)
    assert (dataset.id, dataset.last) == ("alice/digits", 1)
    assert [(v.number, v.tree) for v in dataset.versions] == [(1, "t1")]


def test_a_second_push_must_be_meant() -> None:
    with pytest.raises(Refused, match="exists already") as refused:
        decide(after(PUSH), an_envelope(PUSH))
    assert "push -f" in refused.value.hint


def test_a_pushed_version_never_changes() -> None:
    dataset = after(PUSH, replace(PUSH, tree="t2", force=True))
    newest, first = dataset.version(None), dataset.version(1)
    assert newest and (newest.number, newest.tree) == (2, "t2")
    assert first and first.tree == "t1"
    assert dataset.version(3) is None


def test_what_a_push_does_not_tell_stays() -> None:
    dataset = after(
        replace(PUSH, description="hand-written", tags=("a",), private=True), replace(PUSH, force=True)
    )
    assert (dataset.description, dataset.tags, dataset.private) == ("hand-written", ("a",), True)


def test_a_removed_dataset_is_gone_but_its_numbers_are_not_used_again() -> None:
    removed = after(PUSH, REMOVE)
    assert (removed.removed, removed.versions) == (True, ())
    assert after(PUSH, REMOVE, PUSH).last == 2
    with pytest.raises(NotFound):
        decide(removed, an_envelope(REMOVE))


def test_what_was_never_pushed_is_not_found() -> None:
    with pytest.raises(NotFound, match="no dataset digits"):
        decide(None, an_envelope(REMOVE))
