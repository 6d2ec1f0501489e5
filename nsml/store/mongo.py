"""MongoStore: documents in MongoDB, or a server that is compatible with it; every write is one document's."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from nsml.core import wire
from nsml.core.errors import BadInput, Conflict, Damaged, Fenced
from nsml.core.messages import Envelope
from nsml.core.plain import plain
from nsml.core.subject import Document
from nsml.store import mongo_form
from nsml.store.mongo_client import Mongo, Opened, Unclear
from nsml.store.schema import FIELDS, IDENTIFIER

BATCH = 500  # documents of a scan taken from the server at a time
LOCKS = 64  # counters that share a lock hardly ever meet


class MongoStore(Opened):
    """Documents at *url*, those of *cluster*. A write happens if the stored version and term allow it, which
    one filter says, so nothing more than single-document writes is asked of the server: no transactions, no
    change streams, no partial indexes."""

    def __init__(self, url: str, cluster: str = "default") -> None:
        super().__init__(url, cluster)
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    async def _prepare(self) -> None:
        await _migrate(self._mongo)

    async def load(self, key: str) -> Document | None:
        async with self._documents() as documents:
            found = await documents.find_one({"_id": key})
        return self._document(found) if found else None

    async def commit(self, document: Document) -> None:
        # What was owed before is in the store, settled or not: only what this change owes is new.
        owes = [
            {"id": owed.id, "message": _message(owed, document.key)}
            for owed in document.owed
            if not 0 < owed.version < document.version
        ]
        write = secrets.token_hex(8)  # tells this write from another that led to the same version
        new = {
            "version": document.version,
            "term": document.term,
            "seen": list(document.seen),
            "body": mongo_form.stored(document.body or {}, document.key),
            "write": write,
        }
        async with self._mongo.limit():
            try:
                if not await self._written(document, new, owes):
                    raise await self._refusal(document)
            except Unclear:
                if not await self._went_through(document, write):
                    raise

    async def _written(
        self, document: Document, new: Mapping[str, Any], owes: Sequence[Mapping[str, Any]]
    ) -> bool:
        if document.version == 1:
            first = {"_id": document.key, "kind": document.kind, **new, "owed": owes}
            try:
                async with self._documents() as documents:
                    await documents.insert_one(first)
            except Conflict:
                return False
            return True
        before = {"_id": document.key, "version": document.version - 1, "term": {"$lte": document.term}}
        change: dict[str, Any] = {"$set": new}
        if owes:
            change["$push"] = {"owed": {"$each": owes}}
        async with self._documents() as documents:
            return bool((await documents.update_one(before, change)).matched_count)

    async def _went_through(self, document: Document, write: str) -> bool:
        """Whether the write whose answer was lost is there. Raises `Conflict` when it cannot be told any more
        because the document went on: whoever wrote then reads it again and finds out from `seen`."""
        async with self._documents() as documents:
            stored = await documents.find_one({"_id": document.key}, {"version": 1, "write": 1})
        if stored and stored["version"] >= document.version and stored.get("write") != write:
            raise Conflict(f"{document.key} is version {stored['version']} by now.")
        return bool(stored and stored.get("write") == write)

    async def _refusal(self, document: Document) -> Conflict | Fenced:
        async with self._documents() as documents:
            stored = await documents.find_one({"_id": document.key}, {"version": 1, "term": 1})
        if stored and stored["term"] > document.term:
            return Fenced(f"{document.key} was written under term {stored['term']}, not {document.term}.")
        there = f"version {stored['version']}" if stored else "gone"
        return Conflict(f"{document.key} is {there}: version {document.version} cannot follow.")

    async def scan(
        self,
        kind: str,
        where: Mapping[str, object] | None = None,
        *,
        order: str = "",
        limit: int = 1000,
    ) -> Sequence[Document]:
        direction = -1 if order.startswith("-") else 1
        sort = [("_id", direction)]
        if order:
            sort.insert(0, (_field(order.removeprefix("-")), direction))
        return await self._found(_condition(kind, where or {}), limit, sort)

    async def tally(
        self, kind: str, by: str, where: Mapping[str, object] | None = None, *, total: str = ""
    ) -> Mapping[str, int]:
        steps = [
            {"$match": _condition(kind, where or {})},
            {"$group": {"_id": f"${_field(by)}", "count": {"$sum": f"${_field(total)}" if total else 1}}},
        ]
        async with self._documents() as documents:
            groups = await documents.aggregate(steps).to_list(None)
        return {str(group["_id"]): int(group["count"]) for group in groups}

    async def owing(self, limit: int = 1000) -> Sequence[Document]:
        return await self._found({"owed.id": {"$gt": ""}}, limit)  # in this form the index on it answers

    async def settle(self, key: str, ids: frozenset[str]) -> None:
        async with self._documents() as documents:
            await documents.update_one({"_id": key}, {"$pull": {"owed": {"id": {"$in": sorted(ids)}}}})

    async def count(self, counter: str) -> int:
        """A number is taken by writing it over its predecessor; whoever was slower tries the next."""
        async with self._locks[hash(counter) % LOCKS], self._mongo.calls():
            counters = self._mongo.collection("counters")
            while True:
                last = await counters.find_one({"_id": counter})
                value = last["value"] if last else 0
                if value:
                    change = {"$set": {"value": value + 1}}
                    done = await counters.update_one({"_id": counter, "value": value}, change)
                    if done.matched_count:
                        return int(value) + 1
                elif await self._begun(counter):
                    return 1

    async def _begun(self, counter: str) -> bool:
        try:
            async with self._mongo.calls():
                await self._mongo.collection("counters").insert_one({"_id": counter, "value": 1})
        except Conflict:
            return False
        return True

    async def drop(self, key: str) -> None:
        async with self._documents() as documents:
            await documents.delete_one({"_id": key})

    @asynccontextmanager
    async def _documents(self) -> AsyncIterator[Any]:
        async with self._mongo.calls():
            yield self._mongo.collection("documents")

    async def _found(
        self, condition: Mapping[str, Any], limit: int, sort: Sequence[tuple[str, int]] = ()
    ) -> list[Document]:
        """The documents that fit, in batches, so that the time limit is one for each of them."""
        found: list[dict[str, Any]] = []
        async with self._documents() as documents:
            cursor = documents.find(condition).limit(limit).batch_size(BATCH)
            if sort:
                cursor = cursor.sort(list(sort))
            found += await cursor.to_list(BATCH)
        try:
            while len(found) < limit and cursor.alive:
                async with self._mongo.calls():
                    found += await cursor.to_list(BATCH)
        finally:
            await cursor.close()
        return [self._document(item) for item in found]

    def _document(self, found: Mapping[str, Any]) -> Document:
        try:
            return Document(
                key=found["_id"],
                body=mongo_form.loaded(found["body"]),
                version=int(found["version"]),
                term=int(found["term"]),
                seen=tuple(found["seen"]),
                owed=tuple([wire.read(orjson.loads(owed["message"])) for owed in found["owed"]]),
            )
        except (KeyError, TypeError, ValueError, wire.Undecodable) as error:
            raise Damaged(f"{found['_id']} cannot be read: {error}.") from error


def _message(owed: Envelope, key: str) -> str:
    """An owed message as text: nobody asks the server for what is in it."""
    data = wire.written(owed)
    unfit = wire.first_unfit(data)
    if unfit:
        raise BadInput(f"{key} cannot be stored: {unfit} is not a finite number.")
    try:
        return orjson.dumps(data).decode()
    except (TypeError, ValueError) as error:
        raise BadInput(f"{key} cannot be stored: {error}.") from error


def _field(name: str) -> str:
    if not IDENTIFIER.fullmatch(name):
        raise BadInput(f"{name[:80]!r} is not the name of a field.")
    return f"body.{name}"


def _condition(kind: str, where: Mapping[str, object]) -> dict[str, Any]:
    """The filter for documents of *kind*; None among the wanted values also fits what is not there."""
    condition: dict[str, Any] = {"kind": kind}
    for name, wanted in where.items():
        any_of = list(wanted) if isinstance(wanted, (tuple, list, frozenset, set)) else [wanted]
        condition[_field(name)] = {"$in": [plain(value) for value in any_of]}
    return condition


# -- the collections' form, step by step -------------------------------------------------------------
async def _first_indexes(mongo: Mongo) -> None:
    fields = sorted({name for names in FIELDS.values() for name in names})
    indexes = [[("kind", 1), (f"body.{name}", 1), ("_id", 1)] for name in fields]
    for keys in ([("kind", 1), ("_id", 1)], [("owed.id", 1)], *indexes):
        async with mongo.calls():
            await mongo.collection("documents").create_index(keys)


STEPS = (_first_indexes,)  # each may be repeated: a step that was cut off is made again from its beginning


async def _migrate(mongo: Mongo) -> None:
    """Bring the collections to the form that this version knows. Raises `Damaged` when they are newer."""
    async with mongo.calls():
        found = await mongo.collection("meta").find_one({"_id": "form"})
    form = int(found["value"]) if found else 0
    if form > len(STEPS):
        raise Damaged(
            f"{mongo.place} holds what a newer NSML wrote (format {form}, this one knows {len(STEPS)}).",
            hint="Install the newer version again.",
        )
    for done, step in enumerate(STEPS[form:], form + 1):
        await step(mongo)
        async with mongo.calls():
            await mongo.collection("meta").update_one({"_id": "form"}, {"$max": {"value": done}}, upsert=True)
