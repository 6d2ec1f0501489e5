from __future__ import annotations

import os
import time

import orjson
import pytest

from nsml.core.catalogue import DatasetRef, Run
from nsml.core.checkpoint import Checkpoint
from nsml.core.dataset import Dataset, DatasetVersion
from nsml.core.plain import plain
from nsml.core.session import Session, State
from nsml.core.subject import Document
from nsml.core.tree import File, Tree
from nsml.store.sweep import Swept, sweep


@pytest.fixture
async def keep(store):
    """Stores a value as the document of that key."""

    async def commit(key: str, value) -> None:
        await store.commit(Document(key=key, body=plain(value), version=1))

    return commit


@pytest.fixture
async def a_tree(blobs):
    """Stores a tree with one file of that content; the digests of the tree and of the file."""

    async def make(content: bytes) -> tuple[str, str]:
        file = File(path="x", bytes=len(content), sha256=await blobs.put_bytes(content))
        return await blobs.put_bytes(orjson.dumps(plain(Tree(files=(file,))))), file.sha256

    return make


def a_session(number: int, *, state: State = State.COMPLETED, **fields) -> Session:
    return Session(id=f"alice/mnist/{number}", owner="alice", dataset="mnist", state=state, **fields)


async def listed(blobs) -> set[str]:
    return {digest async for digest, _, _ in blobs.everything()}


async def test_what_a_document_refers_to_stays_and_the_rest_goes(store, blobs, keep, a_tree):
    code, output, old, new, checkpoint, dropped, data, orphan = [
        await a_tree(b"%d" % number) for number in range(8)
    ]
    loose = await blobs.put_bytes(b"loose")
    ref = DatasetRef(name="mnist", owner="bob", version=1, tree=data[0])
    await keep(
        "session/alice/mnist/1", a_session(1, run=Run(code=code[0], datasets=(ref,)), output=output[0])
    )
    versions = tuple(
        DatasetVersion(number=number, tree=tree[0], files=1, bytes=1, pushed=0.0)
        for number, tree in enumerate((old, new), start=1)
    )
    await keep(
        "dataset/alice/mnist", Dataset(id="alice/mnist", owner="alice", name="mnist", versions=versions)
    )
    for name, tree in (("1", checkpoint), ("2", dropped)):
        saved = Checkpoint(
            session="alice/mnist/1",
            checkpoint=name,
            tree=tree[0],
            bytes=1,
            saved=1.0,
            dropped=tree is dropped,
        )
        await keep(f"checkpoint/alice/mnist/1/{name}", saved)

    swept = await sweep(store, blobs, time.time() + 7200)
    assert await listed(blobs) == {*code, *output, *old, *new, *checkpoint, *data}
    gone = {*dropped, *orphan, loose}
    assert swept.blobs == len(gone)
    assert swept.bytes > 0
    assert await sweep(store, blobs, time.time() + 7200) == Swept(0, 0)


async def test_what_is_young_stays(store, blobs, a_tree):
    tree = await a_tree(b"young")
    assert await sweep(store, blobs, time.time() + 3500) == Swept(0, 0)
    assert await listed(blobs) == set(tree)


async def test_what_a_removed_session_used_goes_unless_another_uses_it(store, blobs, keep, a_tree):
    shared, own = await a_tree(b"shared"), await a_tree(b"own")
    removed = a_session(1, state=State.REMOVED, run=Run(code=own[0]), output=shared[0])
    await keep("session/alice/mnist/1", removed)
    await keep("session/alice/mnist/2", a_session(2, state=State.QUEUED, run=Run(code=shared[0])))
    await sweep(store, blobs, time.time() + 7200)
    assert await listed(blobs) == set(shared)


async def test_a_tree_that_is_gone_stops_no_sweep(store, blobs, keep):
    await keep("session/alice/mnist/1", a_session(1, run=Run(code="0" * 64)))
    await blobs.put_bytes(b"orphan")
    assert (await sweep(store, blobs, time.time() + 7200)).blobs == 1


async def test_what_was_asked_for_lately_stays(store, blobs, tmp_path):
    digest = await blobs.put_bytes(b"abc")
    for path in (tmp_path / "blobs").rglob(digest):
        os.utime(path, (0, 0))
    await blobs.missing([digest])
    assert await sweep(store, blobs, time.time()) == Swept(0, 0)
