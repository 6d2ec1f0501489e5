"""Checkpoints: the latest save of a name counts, a drop is for good until it is saved again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import an_envelope

from nsml.core import catalogue as c
from nsml.core.checkpoint import Checkpoint, decide, name
from nsml.core.errors import NotFound

ID = "alice/digits/1"
SAVED = c.CheckpointSaved(session=ID, attempt=1, checkpoint="10", tree="t1", bytes=5, at=100.0)
DROP = c.DropCheckpoint(session=ID, checkpoint="10")


def saved(**changes: object) -> Checkpoint:
    change = decide(None, an_envelope(replace(SAVED, **changes)))  # type: ignore[arg-type]
    assert change
    return change.body


def test_a_save_is_kept_and_told_to_its_session() -> None:
    change = decide(None, an_envelope(SAVED))
    assert change
    assert change.body.tree == "t1"
    assert change.owes == ((c.CheckpointKept(session=ID, checkpoint="10", at=100.0), ""),)


def test_the_same_name_saved_later_replaces_it() -> None:
    change = decide(saved(), an_envelope(replace(SAVED, tree="t2", at=200.0)))
    assert change
    assert change.body.tree == "t2"


def test_an_older_save_that_comes_late_does_not() -> None:
    assert decide(saved(), an_envelope(replace(SAVED, tree="t0", at=50.0))) is None
    assert decide(saved(), an_envelope(SAVED)) is None


def test_a_dropped_checkpoint_cannot_be_dropped_again_but_saved_again() -> None:
    change = decide(saved(), an_envelope(DROP))
    assert change
    assert change.body.dropped
    with pytest.raises(NotFound, match="has no checkpoint 10"):
        decide(change.body, an_envelope(DROP))
    again = decide(change.body, an_envelope(replace(SAVED, at=300.0)))
    assert again
    assert not again.body.dropped


def test_its_name_is_below_its_session() -> None:
    assert name(ID, "best") == "alice/digits/1/best"
