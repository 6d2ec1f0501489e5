"""Blobs that no document refers to any more are dropped, once they are old enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import orjson

from nsml.core.errors import NotFound
from nsml.core.ports import Blobs, Store
from nsml.core.session import State

MOST_TREE = 1 << 30  # bytes of the largest tree's file list
TOGETHER = 200  # sessions whose checkpoints are read at once, so that memory does not grow with their number
EVERYTHING = 1_000_000
KEPT = tuple(str(state) for state in State if state is not State.REMOVED)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep dropped."""

    blobs: int = 0
    bytes: int = 0


async def sweep(store: Store, blobs: Blobs, now: float, older_than: float = 3600) -> Swept:
    """Drop the blobs that no document refers to and that were stored more than *older_than* seconds ago.

    What is referred to is gathered first: a blob that gets referred to meanwhile was asked for or sent
    meanwhile, too, so it is young when its turn comes. The cost grows with the number of documents.
    """
    used = await _used(store, blobs)
    count = size = 0
    async for digest, stored, length in blobs.everything():
        if now - stored > older_than and bytes.fromhex(digest) not in used:
            await blobs.drop(digest)
            count, size = count + 1, size + length
    return Swept(count, size)


async def _used(store: Store, blobs: Blobs) -> set[bytes]:
    trees = {digest async for digest in _trees(store) if digest}
    used = {bytes.fromhex(tree) for tree in trees}
    for tree in trees:
        try:
            content = await blobs.get_bytes(tree, limit=MOST_TREE)
        except NotFound:
            continue  # the tree itself is gone: there is nothing left to keep for it
        used |= await asyncio.to_thread(_files, content)
    return used


def _files(tree: bytes) -> set[bytes]:
    """The content digests in a tree's JSON; read as plain data, for it may list millions of files."""
    return {bytes.fromhex(file["sha256"]) for file in orjson.loads(tree)["files"]}


async def _trees(store: Store) -> AsyncIterator[str]:
    for owner in await store.tally("session", "owner"):
        for dataset in await store.tally("session", "dataset", {"owner": owner}):
            where: Mapping[str, object] = {"owner": owner, "dataset": dataset, "state": KEPT}
            for session in await store.scan("session", where, limit=EVERYTHING):
                body = session.body or {}
                yield body["run"]["code"]
                yield body.get("output", "")
                for ref in body["run"].get("datasets", ()):
                    yield ref["tree"]
    for document in await store.scan("dataset", limit=EVERYTHING):
        for version in (document.body or {}).get("versions", ()):
            yield version["tree"]
    async for tree in _checkpoint_trees(store):
        yield tree


async def _checkpoint_trees(store: Store) -> AsyncIterator[str]:
    sessions = list(await store.tally("checkpoint", "session"))
    for start in range(0, len(sessions), TOGETHER):
        some = tuple(sessions[start : start + TOGETHER])
        for checkpoint in await store.scan("checkpoint", {"session": some}, limit=EVERYTHING):
            body = checkpoint.body or {}
            if not body.get("dropped"):
                yield body["tree"]
