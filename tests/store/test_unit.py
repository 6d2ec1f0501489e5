from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes import an_envelope

from nsml.core.catalogue import (
    AttemptExited,
    CheckpointSaved,
    PlaceSession,
    Run,
    RunSession,
    SessionNoted,
    SessionQueued,
    StopSession,
)
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.errors import Fenced, NotFound, Refused
from nsml.core.resources import Slot
from nsml.core.session import SESSION
from nsml.core.subject import MOST_OWED
from nsml.store.unit import apply

NAME = "alice/mnist/1"


def a_run(**meta):
    return an_envelope(RunSession(session=NAME, run=Run(code="0" * 64)), **meta)


def a_placing(node: str = "n1"):
    return an_envelope(PlaceSession(session=NAME, slots=(Slot(node=node),)), actor="scheduler")


async def test_a_message_changes_its_document_together_with_what_it_owes(store):
    envelope = a_run()
    document = await apply(store, SESSION, NAME, envelope)
    assert document == await store.load(f"session/{NAME}")
    assert document.value(SESSION).state == "queued"
    (owed,) = document.owed
    assert owed.body == SessionQueued(session=NAME, owner="alice")
    assert (owed.cause, owed.version, owed.actor) == (envelope.id, 1, "scheduler")


async def test_a_repeat_changes_nothing(store):
    envelope = a_run()
    first = await apply(store, SESSION, NAME, envelope)
    assert await apply(store, SESSION, NAME, envelope) is None
    assert await store.load(first.key) == first


async def test_old_news_changes_nothing(store):
    await apply(store, SESSION, NAME, a_run())
    before = await store.load(f"session/{NAME}")
    late = AttemptExited(session=NAME, attempt=4, rank=0, node="n1", code=1)
    assert await apply(store, SESSION, NAME, an_envelope(late, actor="node:n1")) is None
    assert await store.load(f"session/{NAME}") == before


async def test_a_command_that_meets_no_rule_is_refused(store):
    with pytest.raises(NotFound):
        await apply(store, SESSION, NAME, an_envelope(StopSession(session=NAME)))
    assert await store.load(f"session/{NAME}") is None


async def test_of_twenty_racers_one_wins(store):
    await apply(store, SESSION, NAME, a_run())
    racers = [a_placing(f"n{number}") for number in range(20)]
    outcomes = await asyncio.gather(*(apply(store, SESSION, NAME, racer, term=1) for racer in racers))
    (winner,) = [outcome for outcome in outcomes if outcome]
    stored = await store.load(f"session/{NAME}")
    assert stored == winner
    assert stored.value(SESSION).attempt == 1
    assert stored.version == 2


async def test_racers_that_all_have_a_rule_all_count(store):
    saves = [
        CheckpointSaved(session=NAME, attempt=1, checkpoint="7", tree="0" * 64, bytes=number, at=1.0 + number)
        for number in range(20)
    ]
    await asyncio.gather(
        *(apply(store, CHECKPOINT, f"{NAME}/7", an_envelope(save, actor="node:n1")) for save in saves)
    )
    stored = await store.load(f"checkpoint/{NAME}/7")
    assert stored.value(CHECKPOINT).bytes == 19
    assert len(stored.owed) == stored.version


async def test_the_same_message_twenty_times_at_once_counts_once(store):
    envelope = a_run()
    outcomes = await asyncio.gather(*(apply(store, SESSION, NAME, envelope) for _ in range(20)))
    assert sum(outcome is not None for outcome in outcomes) == 1


async def test_a_deposed_leader_writes_nothing_that_its_successor_has_written(store):
    await apply(store, SESSION, NAME, a_run(), term=2)
    with pytest.raises(Fenced):
        await apply(store, SESSION, NAME, a_placing(), term=1)
    assert (await apply(store, SESSION, NAME, a_placing(), term=2)).term == 2


async def test_what_is_no_leaders_write_is_not_fenced_and_keeps_the_term(store):
    await apply(store, SESSION, NAME, a_run(), term=2)
    assert (await apply(store, SESSION, NAME, an_envelope(StopSession(session=NAME)))).term == 2


async def test_while_too_much_is_owed_commands_are_refused_and_events_are_not(store):
    document = await apply(store, SESSION, NAME, a_run())
    noted = tuple(
        an_envelope(SessionNoted(session=NAME, owner="alice"), actor="scheduler", version=2)
        for _ in range(MOST_OWED)
    )
    await store.commit(replace(document, version=2, owed=(*document.owed, *noted)))
    with pytest.raises(Refused, match="257"):
        await apply(store, SESSION, NAME, an_envelope(StopSession(session=NAME)))
    assert await apply(store, SESSION, NAME, a_placing())
