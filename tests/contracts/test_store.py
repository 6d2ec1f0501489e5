"""What every store promises."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes import an_envelope

from nsml.core.catalogue import SessionQueued, SessionStopped
from nsml.core.errors import BadInput, Conflict, Fenced, Unavailable
from nsml.core.messages import Envelope
from nsml.core.subject import Document


def a_document(name: str = "alice/mnist/1", *, kind: str = "session", **body: object) -> Document:
    return Document(key=f"{kind}/{name}", body={"state": "queued", **body}, version=1, seen=("a1",))


def owed(number: int = 1, version: int = 1) -> Envelope:
    told = SessionQueued(session=f"alice/mnist/{number}", owner="alice")
    return an_envelope(told, actor="scheduler", version=version)


def after(document: Document, **changes: object) -> Document:
    return replace(document, **{"version": document.version + 1, **changes})


async def test_a_document_is_read_as_it_was_written(store):
    document = replace(
        a_document(text="Zoë\n\x00 ☃", number=2**53, share=0.1, none=None, deep={"a.b": [{"$c": True}]}),
        term=4,
        owed=(owed(), owed()),
    )
    await store.commit(document)
    assert await store.load(document.key) == document


async def test_what_is_not_there_is_none(store):
    assert await store.load("session/alice/mnist/9") is None


async def test_the_next_version_replaces_the_last(store):
    first = a_document()
    await store.commit(first)
    second = after(first, body={"state": "placed"})
    await store.commit(second)
    assert await store.load(first.key) == second


async def test_a_version_that_does_not_follow_is_refused(store):
    document = a_document()
    await store.commit(document)
    for version in (1, 3):
        with pytest.raises(Conflict):
            await store.commit(replace(document, version=version, body={"state": "stopped"}))
    with pytest.raises(Conflict):
        await store.commit(replace(document, key="session/alice/mnist/2", version=2))
    assert await store.load(document.key) == document


async def test_of_many_racing_commits_one_wins(store):
    await store.commit(a_document())
    racers = [after(a_document(), body={"state": f"racer {number}"}) for number in range(20)]
    outcomes = await asyncio.gather(*(store.commit(racer) for racer in racers), return_exceptions=True)
    winners = [racer for racer, outcome in zip(racers, outcomes, strict=True) if outcome is None]
    assert [type(o) for o in outcomes if o is not None] == [Conflict] * 19
    assert await store.load("session/alice/mnist/1") == winners[0]


async def test_what_a_loser_owes_is_not_owed(store):
    first = a_document()
    await store.commit(first)
    await store.commit(after(first))
    with pytest.raises(Conflict):
        await store.commit(after(first, owed=(owed(version=2),)))
    assert list(await store.owing()) == []


async def test_a_lower_term_is_refused_and_an_equal_one_is_not(store):
    document = replace(a_document(), term=2)
    await store.commit(document)
    with pytest.raises(Fenced):
        await store.commit(after(document, term=1))
    await store.commit(after(document, term=2))
    await store.commit(after(after(document), term=3))
    stored = await store.load(document.key)
    assert (stored.version, stored.term) == (3, 3)


async def test_who_owes_is_found_and_settled_piece_by_piece(store):
    debts = (owed(1), owed(2), owed(3))
    document = replace(a_document(), owed=debts)
    await store.commit(document)
    await store.commit(a_document("alice/mnist/2"))
    assert list(await store.owing()) == [document]
    await store.settle(document.key, frozenset({debts[0].id, debts[2].id}))
    stored = await store.load(document.key)
    assert (stored.owed, stored.version) == ((debts[1],), 1)
    await store.settle(document.key, frozenset({debts[1].id}))
    assert list(await store.owing()) == []


async def test_settling_twice_or_what_is_not_owed_changes_nothing(store):
    document = replace(a_document(), owed=(owed(),))
    await store.commit(document)
    for _ in range(2):
        await store.settle(document.key, frozenset({document.owed[0].id, "unknown"}))
    await store.settle("session/nobody/x/1", frozenset({"unknown"}))
    assert (await store.load(document.key)).owed == ()


async def test_what_was_settled_meanwhile_does_not_come_back_with_the_next_version(store):
    document = replace(a_document(), owed=(owed(),))
    await store.commit(document)
    await store.settle(document.key, frozenset({document.owed[0].id}))
    new = owed(2, version=2)
    await store.commit(after(document, owed=(*document.owed, new)))
    assert (await store.load(document.key)).owed == (new,)


async def test_what_is_still_owed_stays_owed_with_the_next_version(store):
    document = replace(a_document(), owed=(owed(),))
    await store.commit(document)
    stopped = SessionStopped(session="alice/mnist/1", owner="alice", attempt=0, reason="")
    new = an_envelope(stopped, actor="scheduler", version=2)
    await store.commit(after(document, owed=(*document.owed, new)))
    assert (await store.load(document.key)).owed == (*document.owed, new)


async def test_a_scan_finds_by_kind_and_fields(store):
    for number, (state, owner) in enumerate(
        [("queued", "alice"), ("running", "alice"), ("queued", "bob"), ("failed", "bob")]
    ):
        await store.commit(a_document(f"{owner}/x/{number}", state=state, owner=owner, memo=None))
    await store.commit(a_document("n1", kind="node", state="queued"))

    async def found(where: dict[str, object]) -> list[str]:
        return [document.key for document in await store.scan("session", where)]

    assert await found({}) == [f"session/{n}" for n in ("alice/x/0", "alice/x/1", "bob/x/2", "bob/x/3")]
    assert await found({"state": "queued"}) == ["session/alice/x/0", "session/bob/x/2"]
    assert await found({"state": ("running", "failed")}) == ["session/alice/x/1", "session/bob/x/3"]
    assert await found({"state": ("queued", "failed"), "owner": "bob"}) == [
        "session/bob/x/2",
        "session/bob/x/3",
    ]
    assert await found({"state": ()}) == []
    assert len(await found({"memo": None})) == 4
    assert await found({"state": "'; DROP TABLE document; --"}) == []


async def test_a_scan_is_ordered_and_limited(store):
    for number, created in enumerate([3.0, 1.0, 2.5]):
        await store.commit(a_document(f"alice/x/{number}", created=created))
    rising = await store.scan("session", order="created")
    assert [d.body["created"] for d in rising] == [1.0, 2.5, 3.0]
    falling = await store.scan("session", order="-created", limit=2)
    assert [d.body["created"] for d in falling] == [3.0, 2.5]


async def test_a_scan_brings_what_is_owed(store):
    document = replace(a_document(), owed=(owed(),))
    await store.commit(document)
    assert list(await store.scan("session")) == [document]


@pytest.mark.parametrize("field", ["a b", "x'", "run.code", "", "x)--", "$where", "__class__"])
async def test_what_is_no_field_is_refused(store, field):
    with pytest.raises(BadInput):
        await store.scan("session", {field: 1})
    with pytest.raises(BadInput):
        await store.scan("session", order=f"-{field}x y")
    with pytest.raises(BadInput):
        await store.tally("session", field)


async def test_a_tally_counts_by_field(store):
    for number, state in enumerate(["queued", "queued", "failed"]):
        await store.commit(a_document(f"alice/x/{number}", state=state, owner="alice"))
    assert await store.tally("session", "state") == {"queued": 2, "failed": 1}
    assert await store.tally("session", "state", {"owner": "bob"}) == {}


async def test_a_tally_adds_up_another_field(store):
    for number, (state, size) in enumerate([("queued", 5), ("queued", 7), ("failed", None)]):
        await store.commit(a_document(f"alice/x/{number}", state=state, bytes=size))
    assert await store.tally("session", "state", total="bytes") == {"queued": 12, "failed": 0}


async def test_a_counter_never_says_the_same_twice(store):
    counted = await asyncio.gather(*(store.count("alice/mnist") for _ in range(50)))
    assert sorted(counted) == list(range(1, 51))
    assert await store.count("alice/other") == 1


async def test_a_dropped_document_is_gone_with_its_debts(store):
    document = replace(a_document(), owed=(owed(),))
    await store.commit(document)
    await store.drop(document.key)
    await store.drop(document.key)
    assert await store.load(document.key) is None
    assert list(await store.owing()) == []
    await store.commit(document)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"x": float("-inf")}], "\ud800", 2**80])
async def test_what_json_cannot_hold_is_refused_and_nothing_is_changed(store, value):
    with pytest.raises(BadInput):
        await store.commit(a_document(accuracy=value))
    assert await store.load("session/alice/mnist/1") is None


async def test_all_that_was_acknowledged_is_there_when_it_is_opened_again(open_store):
    document = replace(a_document(), owed=(owed(),), term=3)
    async with open_store() as store:
        await store.commit(document)
        assert await store.count("alice/mnist") == 1
    async with open_store() as store:
        assert await store.load(document.key) == document
        assert list(await store.owing()) == [document]
        assert await store.count("alice/mnist") == 2


async def test_two_that_have_it_open_see_each_other_and_race_fairly(open_store):
    async with open_store() as one, open_store() as other:
        await one.commit(a_document())
        document = await other.load("session/alice/mnist/1")
        await other.commit(after(document))
        with pytest.raises(Conflict):
            await one.commit(after(document))
        assert len({await one.count("x"), await other.count("x"), await one.count("x")}) == 3


async def test_a_cancelled_commit_happens_or_not_and_harms_no_other(store):
    commit = asyncio.create_task(store.commit(a_document()))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait([commit])
    await store.commit(a_document("alice/mnist/2"))
    assert await store.load("session/alice/mnist/2")


async def test_a_closed_store_says_so(open_store):
    async with open_store() as store:
        await store.ping()
    for call in (store.load("a/b"), store.commit(a_document()), store.scan("session"), store.count("x")):
        with pytest.raises(Unavailable):
            await call
