"""SqliteStore: documents in one SQLite file; one thread writes, the others read beside it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson

from nsml.core import wire
from nsml.core.errors import BadInput, Conflict, Damaged, Fenced, NsmlError, Unavailable
from nsml.core.subject import Document
from nsml.store import schema
from nsml.store.writer import GroupWriter

T = TypeVar("T")
READERS = 2  # so that one slow scan does not hold back the next

COLUMNS = (
    "key, version, term, body, seen, "
    "(SELECT json_group_array(json(owes.body)) FROM "
    "(SELECT owed.body AS body FROM owed WHERE owed.key = document.key ORDER BY n) owes)"
)
LOAD = f"SELECT {COLUMNS} FROM document WHERE key = ?"
OWING = (
    f"SELECT {COLUMNS} FROM document WHERE key IN (SELECT key FROM owed GROUP BY key ORDER BY min(n) LIMIT ?)"
)
INSERT = (
    "INSERT INTO document (version, term, body, seen, key, kind) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
UPDATE = (
    "UPDATE document SET version = ?, term = ?, body = ?, seen = ? "
    "WHERE key = ? AND version = ? AND term <= ?"
)
OWE = "INSERT INTO owed (key, id, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
SETTLE = "DELETE FROM owed WHERE key = ? AND id IN (SELECT value FROM json_each(?))"
COUNT = (
    "INSERT INTO counter (name, value) VALUES (?, 1) "
    "ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value"
)


class SqliteStore:
    """Documents in the SQLite file at *path* (WAL, FULL): what a call acknowledged survives a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: GroupWriter | None = None
        self._loads: sqlite3.Connection | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._reading: list[sqlite3.Connection] = []
        self._own = threading.local()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(schema.prepare, self.path)
        try:
            self._loads = schema.connect(self.path, reading=True)
            self._writer = GroupWriter(schema.connect(self.path, reading=False), self._explain)
        except sqlite3.Error as error:
            raise self._explain(error) from error
        self._writer.start()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store reader")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._readers:
            await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reading:
            connection.close()
        if self._loads:
            self._loads.close()
        if self._writer:
            await self._writer.close()  # last: closing the last connection folds the log into the file
        self._readers = self._loads = None
        self._reading.clear()

    async def ping(self) -> None:
        await self.load("ping/ping")

    async def load(self, key: str) -> Document | None:
        """Read in the caller's thread: finding one row costs less than handing it to another thread."""
        if self._loads is None:
            raise _closed()
        try:
            row = self._loads.execute(LOAD, (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._explain(error) from error
        return self._document(row) if row else None

    async def commit(self, document: Document) -> None:
        body = _json(document.body or {}, document.key)
        seen = orjson.dumps(document.seen).decode()
        # What was owed before is in the store, settled or not: only what this change owes is new.
        owes = [
            (document.key, owed.id, _json(wire.written(owed), document.key))
            for owed in document.owed
            if not 0 < owed.version < document.version
        ]
        what = (document.version, document.term, body, seen, document.key)

        def write(connection: sqlite3.Connection) -> None:
            if document.version == 1:
                done = connection.execute(INSERT, (*what, document.kind))
            else:
                done = connection.execute(UPDATE, (*what, document.version - 1, document.term))
            if done.rowcount != 1:
                raise _refusal(connection, document)
            connection.executemany(OWE, owes)

        await self._write(write)

    async def scan(
        self,
        kind: str,
        where: Mapping[str, object] | None = None,
        *,
        order: str = "",
        limit: int = 1000,
    ) -> Sequence[Document]:
        sql, values = select(COLUMNS, kind, where or {}, order)
        return await self._read(lambda c: self._documents(c, sql, (*values, limit)))

    async def tally(
        self, kind: str, by: str, where: Mapping[str, object] | None = None, *, total: str = ""
    ) -> Mapping[str, int]:
        condition, values = _condition(kind, where or {})
        counted = f"sum({_field(total)})" if total else "count(*)"
        along = _along(kind, where or {})
        sql = f"SELECT {_field(by)}, {counted} FROM document{along} WHERE {condition} GROUP BY 1"
        rows = await self._read(lambda c: c.execute(sql, values).fetchall())
        return {str(value): int(count or 0) for value, count in rows}

    async def owing(self, limit: int = 1000) -> Sequence[Document]:
        return await self._read(lambda c: self._documents(c, OWING, (limit,)))

    async def settle(self, key: str, ids: frozenset[str]) -> None:
        listed = orjson.dumps(list(ids)).decode()

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(SETTLE, (key, listed))

        await self._write(write)

    async def count(self, counter: str) -> int:
        def write(connection: sqlite3.Connection) -> int:
            return int(connection.execute(COUNT, (counter,)).fetchone()[0])

        return await self._write(write)

    async def drop(self, key: str) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM document WHERE key = ?", (key,))
            connection.execute("DELETE FROM owed WHERE key = ?", (key,))

        await self._write(write)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise _closed()
        return await self._writer.do(work)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._readers is None:
            raise _closed()

        def read() -> T:
            try:
                return work(self._reader())
            except sqlite3.Error as error:
                raise self._explain(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection."""
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = schema.connect(self.path, reading=True)
            self._reading.append(connection)
        return connection

    def _documents(self, connection: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> list[Document]:
        return [self._document(row) for row in connection.execute(sql, values)]

    def _document(self, row: tuple[Any, ...]) -> Document:
        key, version, term, body, seen, owed = row
        try:
            return Document(
                key=key,
                body=orjson.loads(body),
                version=version,
                term=term,
                seen=tuple(orjson.loads(seen)),
                owed=tuple([wire.read(data) for data in orjson.loads(owed)]) if owed != "[]" else (),
            )
        except (ValueError, wire.Undecodable) as error:
            raise Damaged(f"{key} in {self.path} cannot be read: {error}.") from error

    def _explain(self, error: sqlite3.Error) -> NsmlError:
        return schema.explained(self.path, error)


def _closed() -> Unavailable:
    return Unavailable("The platform's store is closed: the platform is going down.")


def _refusal(connection: sqlite3.Connection, document: Document) -> Conflict | Fenced:
    stored = connection.execute(
        "SELECT version, term FROM document WHERE key = ?", (document.key,)
    ).fetchone()
    if stored and stored[1] > document.term:
        return Fenced(f"{document.key} was written under term {stored[1]}, not {document.term}.")
    there = f"version {stored[0]}" if stored else "gone"
    return Conflict(f"{document.key} is {there}: version {document.version} cannot follow.")


def _json(value: Any, key: str) -> str:
    unfit = wire.first_unfit(value)
    if unfit:
        raise BadInput(f"{key} cannot be stored: {unfit} is not a finite number.")
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError) as error:
        raise BadInput(f"{key} cannot be stored: {error}.") from error


def select(
    columns: str, kind: str, where: Mapping[str, object], order: str = ""
) -> tuple[str, tuple[Any, ...]]:
    """The SQL that finds documents in *order*, at most as many as its last parameter, and the others."""
    condition, values = _condition(kind, where)
    name, falling = order.removeprefix("-"), " DESC" if order.startswith("-") else ""
    by = f"{_field(name)}{falling}, " if order else ""
    found = f"FROM document{_along(kind, where, name)} WHERE {condition}"
    return f"SELECT {columns} {found} ORDER BY {by}key{falling} LIMIT ?", values


def _along(kind: str, where: Mapping[str, object], order: str = "") -> str:
    """The index to read along: of the first indexed field of *where*, else of the order. The planner cannot
    know that few documents fit, nor that sorting every document of the kind costs more."""
    indexed = schema.FIELDS.get(kind, ())
    asked = [name for name, wanted in where.items() if name in indexed and _is_found(wanted)]
    chosen = asked[:1] or ([order] if order in indexed and not set(indexed) & set(where) else [])
    return "".join(f" INDEXED BY {kind}_{name}" for name in chosen)


def _is_found(wanted: object) -> bool:
    """Whether an index can find *wanted*: not nothing, nor documents that lack the field."""
    if isinstance(wanted, (tuple, list, frozenset, set)):
        return bool(wanted) and None not in wanted
    return wanted is not None


@lru_cache(maxsize=256)
def _field(name: str) -> str:
    if not schema.IDENTIFIER.fullmatch(name):
        raise BadInput(f"{name[:80]!r} is not the name of a field.")
    return schema.field(name)


def _condition(kind: str, where: Mapping[str, object]) -> tuple[str, tuple[Any, ...]]:
    """The SQL condition for documents of *kind*. The kind stands in the text: the indexes ask for it."""
    if not schema.IDENTIFIER.fullmatch(kind):
        raise BadInput(f"{kind[:80]!r} is not a kind of document.")
    parts, values = [f"kind='{kind}'"], list[Any]()
    for name, wanted in where.items():
        any_of = list(wanted) if isinstance(wanted, (tuple, list, frozenset, set)) else [wanted]
        there = [value for value in any_of if value is not None]
        part = f"{_field(name)} IN ({','.join('?' * len(there))})"
        if len(there) < len(any_of):
            part = f"({part} OR {_field(name)} IS NULL)"
        parts.append(part)
        values += there
    return " AND ".join(parts), tuple(values)
