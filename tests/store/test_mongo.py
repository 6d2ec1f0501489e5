"""MongoStore and MongoStreams when the server, or the way to it, is not well."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import stores
from fakes import an_envelope
from proxies import Proxy

from nsml.core.catalogue import SessionQueued
from nsml.core.errors import BadInput, Conflict, Damaged, NsmlError, Unavailable
from nsml.core.messages import Envelope
from nsml.core.subject import Change, Document, Subject
from nsml.store.unit import apply

KEY = "session/alice/mnist/1"
MOST = 6.0  # seconds that any call may take


def a_document(version: int = 1, **body: object) -> Document:
    return Document(key=KEY, body=dict(body), version=version, seen=(f"m{version}",))


def through(proxy: Proxy, at: str) -> str:
    """The URL *at*, by way of *proxy*."""
    found = urlsplit(at)
    return found._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    port = urlsplit(stores.mongo_url()).port or 27017
    async with Proxy(port) as opened:
        yield opened


@pytest.fixture
async def direct(tmp_path: Path):
    """The store as the server has it."""
    async with stores.mongo_store(tmp_path) as opened:
        yield opened


@pytest.fixture
async def store(direct, proxy: Proxy, tmp_path: Path):
    """The same store by way of the proxy."""
    from nsml.store.mongo import MongoStore

    at = stores.mongo_url()
    async with MongoStore(through(proxy, at), stores.cluster(tmp_path, at)) as opened:
        yield opened


@pytest.fixture
async def streams(direct, proxy: Proxy, tmp_path: Path):
    from nsml.store.streams_mongo import MongoStreams

    at = stores.mongo_url()
    async with MongoStreams(through(proxy, at), stores.cluster(tmp_path, at)) as opened:
        yield opened


async def timed(call) -> tuple[object, float]:
    started = time.monotonic()
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    return outcome, time.monotonic() - started


async def test_a_server_that_drops_everything_is_unavailable_and_found_again_when_it_is_back(store, proxy):
    await store.commit(a_document())
    proxy.be("drop")
    calls = (
        store.load(KEY),
        store.commit(a_document(2)),
        store.count("x"),
        store.scan("session"),
        store.ping(),
    )
    absent = type(store)(f"mongodb://me:secret@127.0.0.1:{proxy.port}/")
    for outcome, seconds in await asyncio.gather(*(timed(call) for call in (*calls, absent.__aenter__()))):
        assert isinstance(outcome, Unavailable) and seconds < MOST, outcome
        assert "127.0.0.1" in outcome.message and "secret" not in outcome.message
    proxy.be("pass")
    assert (await store.load(KEY)).version == 1
    await store.commit(a_document(2))


async def test_no_call_waits_for_a_silent_server_more_than_six_seconds(store, streams, proxy):
    await store.commit(a_document())
    proxy.be("hang")
    calls = [
        store.load(KEY),
        store.commit(a_document(2)),
        store.scan("session"),
        store.tally("session", "state"),
        store.owing(),
        store.settle(KEY, frozenset({"x"})),
        store.count("x"),
        store.drop(KEY),
        store.ping(),
        streams.append("log/a", 0, b"x" * 10),
        streams.read("log/a", 0, 10),
        streams.size("log/a"),
        streams.find("log/"),
        streams.drop("log/"),
        *(store.load(KEY) for _ in range(100)),  # more than there are workers
    ]
    for outcome, seconds in await asyncio.gather(*(timed(call) for call in calls)):
        assert isinstance(outcome, Unavailable), outcome
        assert seconds < MOST


async def test_a_commit_whose_answer_is_lost_is_found_to_have_happened_or_told_to_be_open(
    store, direct, proxy
):
    await store.commit(a_document())
    proxy.be("lose")
    outcome, seconds = await timed(store.commit(a_document(2, by="me")))
    assert isinstance(outcome, Unavailable) and seconds < MOST
    assert proxy.lost > 0
    proxy.be("pass")
    assert (await direct.load(KEY)).body == {"by": "me"}
    with pytest.raises(Conflict):  # a repeat does not happen twice
        await store.commit(a_document(2, by="me"))


async def test_a_commit_whose_answer_alone_is_lost_has_happened(store, direct, proxy):
    await store.commit(a_document())
    proxy.be("lose one")
    await store.commit(a_document(2, by="me"))
    assert proxy.lost == 1
    assert (await direct.load(KEY)).body == {"by": "me"}


async def test_a_message_is_applied_once_whatever_is_lost_on_the_way(store, direct, proxy):
    def add(body: dict | None, envelope: Envelope) -> Change:
        count = (body or {}).get("count", 0) + 1
        told = SessionQueued(session=f"alice/mnist/{count}", owner="alice")
        return Change({"count": count}, ((told, ""),))

    subject = Subject("session", dict, add)
    envelopes = [an_envelope(SessionQueued(session="alice/mnist/1", owner="alice")) for _ in range(20)]
    faults = iter(["lose", "drop", "pass", "lose", "lose", "pass", "drop", "lose"])
    stop = asyncio.Event()

    async def misbehave() -> None:
        while not stop.is_set():
            proxy.be(next(faults, "pass"))
            await asyncio.sleep(0.02)
        proxy.be("pass")

    async def send(envelope: Envelope) -> None:
        while True:
            try:
                await apply(store, subject, "alice/mnist/1", envelope)
                return
            except Unavailable:
                await asyncio.sleep(0.005)

    fault = asyncio.create_task(misbehave())
    for some in (envelopes[:10], envelopes[10:]):
        await asyncio.gather(*(send(envelope) for envelope in some))
    stop.set()
    await fault
    stored = await direct.load(KEY)
    assert stored.body == {"count": 20} and stored.version == 20
    assert len(stored.owed) == len({owed.id for owed in stored.owed}) == 20
    assert proxy.lost > 0


async def test_a_counter_says_nothing_twice_though_answers_are_lost(store, proxy):
    told = []
    for number in range(15):
        proxy.be("lose one" if number % 3 == 0 else "pass")
        try:
            told.append(await store.count("x"))
        except Unavailable:
            assert proxy.lost
    assert len(told) >= 10 and len(set(told)) == len(told)


async def test_a_stream_is_whole_though_answers_are_lost(streams, proxy):
    data = bytes(range(256)) * 400
    for at in range(0, len(data), 5_000):
        proxy.be("lose one" if at % 25_000 == 0 else "pass")
        while True:
            try:
                await streams.append("log/a", at, data[at : at + 5_000])
                break
            except Unavailable:
                assert proxy.lost
    assert proxy.lost > 2
    assert await streams.read("log/a", 0, 1 << 20) == data


async def test_a_stream_dropped_by_another_process_begins_anew(streams, tmp_path):
    async with stores.mongo_streams(tmp_path) as other:
        await streams.append("log/a", 0, b"x" * 100)
        await other.drop("log/")
        await streams.append("log/a", 0, b"again")
        assert await other.read("log/a", 0, 100) == b"again"
        await other.drop("log/")
        with pytest.raises(Conflict):
            await streams.append("log/a", 5, b"x")


async def test_a_line_at_a_time_makes_few_documents(streams):
    for number in range(500):
        await streams.append("log/a", number * 100, b"x" * 100)
    async with streams._mongo.calls():
        count = await streams._mongo.collection("chunks").count_documents({})
    assert count <= 5


async def test_a_write_of_many_megabytes_is_read_back(streams):
    data = bytes(range(256)) * (5 << 12)
    await streams.append("log/a", 0, data)
    await streams.append("log/a", len(data), b"end")
    assert await streams.read("log/a", 0, 1 << 30) == data + b"end"
    assert await streams.read("log/a", 3_000_000, 1_500_000) == (data + b"end")[3_000_000:4_500_000]


async def test_keys_of_people_are_neither_commands_nor_paths(direct):
    body = {
        "env": {
            "": 1,
            "a.b": 2,
            "$set": 3,
            "x\x00": 4,
            "%2E": 5,
            "%_": 6,
            "a$": 7,
            "Zoë": {"$where": [{"": None}]},
        }
    }
    await direct.commit(a_document(**body))
    assert (await direct.load(KEY)).body == body


async def test_numbers_keep_their_kind(direct):
    body = {"whole": 3, "part": 3.0, "large": (1 << 63) - 1, "small": -5, "yes": True}
    await direct.commit(a_document(**body))
    found = (await direct.load(KEY)).body
    assert found == body
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in body.items()}


async def test_a_scan_longer_than_a_batch_is_whole(direct):
    await asyncio.gather(*(direct.commit(replace(a_document(n=n), key=f"x/{n:04}")) for n in range(1_100)))
    assert [d.body["n"] for d in await direct.scan("x", limit=5_000)] == list(range(1_100))
    assert len(await direct.scan("x", limit=700)) == 700


async def test_two_clusters_on_one_server_do_not_meet(direct, tmp_path):
    async with stores.mongo_store(tmp_path / "other") as other:
        await direct.commit(a_document())
        assert await other.load(KEY) is None
        assert await direct.count("x") == await other.count("x") == 1


async def test_what_a_newer_version_wrote_is_left_alone(direct, tmp_path):
    async with direct._mongo.calls():
        await direct._mongo.collection("meta").update_one({"_id": "form"}, {"$set": {"value": 99}})
    with pytest.raises(Damaged, match="newer"):
        async with stores.mongo_store(tmp_path):
            pass


async def test_what_is_larger_than_a_document_may_be_is_refused_and_harms_nothing(direct):
    with pytest.raises(NsmlError, match="16 MB"):
        await direct.commit(a_document(text="x" * (17 << 20)))
    await direct.commit(a_document())


@pytest.mark.parametrize(
    "url", ["mongodb://", "mongodb://a:b@@host", "mongodb://u:secret@h:x/", "mongodb://u:secret@h:99999/"]
)
async def test_a_url_that_is_none_is_refused_without_its_password(url):
    stores.mongo_url()
    from nsml.store.mongo import MongoStore

    with pytest.raises(BadInput) as refused:
        await MongoStore(url).__aenter__()
    assert not re.search("secret|a:b", refused.value.message)
