"""The SQLite file: its tables, how it is made, and how a damaged one is recognised."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from nsml.core.errors import BadInput, Damaged, NsmlError, Unavailable

SCHEMA = 1
CHECK_BELOW = 64 << 20  # bytes: above, reading all of it would delay the start by more than a second
LOG_KEPT = 64 << 20  # bytes of the write-ahead log left on disk once it is folded into the file
HEADER = b"SQLite format 3\0"
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")  # of fields and kinds that may be asked for

# What is asked for by these fields is found without reading every document of its kind.
FIELDS = {
    "session": ("state", "owner", "dataset", "created"),
    "checkpoint": ("session",),
    "dataset": ("name", "owner"),
    "notice": ("state",),
}

TABLES = (
    """CREATE TABLE document (
        key TEXT PRIMARY KEY NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL, term INTEGER NOT NULL,
        body TEXT NOT NULL, seen TEXT NOT NULL)""",
    "CREATE INDEX document_kind ON document (kind, key)",
    # The outbox is a table of its own: asking who owes costs what is owed, settling does not rewrite bodies.
    "CREATE TABLE owed (n INTEGER PRIMARY KEY, key TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE UNIQUE INDEX owed_once ON owed (key, id)",
    "CREATE TABLE counter (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID",
)


def field(name: str) -> str:
    """The SQL expression of a body's field; the indexes are on exactly this text."""
    return f"json_extract(body,'$.{name}')"


def _indexes() -> list[str]:
    return [
        f"CREATE INDEX {kind}_{name} ON document ({field(name)}, key) WHERE kind='{kind}'"
        for kind, names in FIELDS.items()
        for name in names
    ]


def connect(path: Path, *, reading: bool) -> sqlite3.Connection:
    """A connection in autocommit mode; a commit is on disk when it returns."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10
    )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA journal_size_limit={LOG_KEPT}")
    if reading:
        connection.execute("PRAGMA query_only=ON")
    return connection


def prepare(path: Path) -> None:
    """Make the database at *path* if there is none; raises `Damaged` when what is there is not sound."""
    beside = path.with_name(path.name + "-wal")
    try:
        if path.exists():
            _check(path, beside)
        elif beside.exists() and beside.stat().st_size:
            raise Damaged(f"{path} is gone, but {beside.name} with changes to it is there.", hint=_HINT)
        else:
            _create(path)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be used now: {error.strerror}.", hint="See that it is a file that you may write."
        ) from error


_HINT = "Put back a copy of the whole folder, or move the file away to begin with an empty platform."


def _create(path: Path) -> None:
    """Made under another name first, so that a database that is empty or half made is never ours."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(path.name + ".new")
    for left in (new, path.with_name(path.name + ".new-wal"), path.with_name(path.name + ".new-shm")):
        left.unlink(missing_ok=True)
    try:
        connection = connect(new, reading=False)
        connection.execute("PRAGMA journal_mode=WAL")
        for statement in (*TABLES, *_indexes()):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA}")
        connection.close()
    except sqlite3.Error as error:
        raise explained(path, error) from error
    new.chmod(0o600)
    new.replace(path)


def _check(path: Path, beside: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(HEADER) or len(header) < 100:
        what = "is empty" if not size else "is not a database"
        raise Damaged(f"{path} {what}: it was cut short or overwritten.", hint=_HINT)
    try:
        connection = connect(path, reading=True)
        try:
            _check_content(path, connection, size, log=beside.stat().st_size if beside.exists() else 0)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise explained(path, error) from error


def _check_content(path: Path, connection: sqlite3.Connection, size: int, log: int) -> None:
    if size < CHECK_BELOW:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise Damaged(f"{path} is damaged: {said}.", hint=_HINT)
    elif not log:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        if size < pages * page:
            raise Damaged(f"{path} is cut short: {size} of {pages * page} bytes.", hint=_HINT)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise Damaged(
            f"{path} was written by a newer NSML (format {version}, this one knows {SCHEMA}).",
            hint="Install the newer version again.",
        )
    if version < SCHEMA:
        raise Damaged(f"{path} is a database, but not one of NSML's.", hint=_HINT)


MISUSE = frozenset(
    {
        0,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)  # codes that say that the call was wrong: trying again will not help


def explained(path: Path, error: sqlite3.Error) -> NsmlError:
    """The driver's *error* as ours: what happened to *path* and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"{path} is damaged: {error}.", hint=_HINT)
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(
            f"The disk that holds {path} is full.", hint="Free some space: it goes on by itself then."
        )
    if code in MISUSE:
        return BadInput(f"The store was asked for what it cannot do: {error}.")
    return Unavailable(f"{path} cannot be used now: {error}.", hint="See that its disk can be written.")
