from __future__ import annotations

import asyncio
import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nsml.core.errors import Damaged, Unavailable
from nsml.core.subject import Document
from nsml.store import schema
from nsml.store.sqlite import SqliteStore, select

WRITES_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from nsml.core.catalogue import SessionQueued
from nsml.core.messages import Envelope
from nsml.core.subject import Document
from nsml.store.sqlite import SqliteStore

async def write(store, prefix, number):
    key = f"session/{prefix}/x/{number}"
    owed = Envelope(body=SessionQueued(session=key, owner="a"), at=0.0, version=1)
    await store.commit(Document(key=key, body={"state": "queued"}, version=1, owed=(owed,)))
    print(key, owed.id, await store.count("sessions"), flush=True)
    if number % 3 == 0:
        await store.settle(key, frozenset({owed.id}))

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        for number in range(0, 1_000_000, 8):
            await asyncio.gather(*(write(store, sys.argv[2], number + i) for i in range(8)))

asyncio.run(main())
"""


def a_document(name: str, **body: object) -> Document:
    return Document(key=f"session/{name}", body={"state": "queued", **body}, version=1)


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """No file may grow beyond *room* bytes meanwhile, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A database with a hundred documents in it, closed."""
    path = tmp_path / "nsml.db"
    async with SqliteStore(path) as store:
        for number in range(100):
            await store.commit(a_document(f"a/x/{number}", text="x" * 500))
    return path


async def refusal(path: Path) -> str:
    with pytest.raises(Damaged) as caught:
        async with SqliteStore(path):
            pass
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_what_was_acknowledged_survives_kill_9_at_any_moment(tmp_path):
    path, chance = tmp_path / "nsml.db", random.Random(9)
    acknowledged: dict[str, str] = {}
    counted: list[int] = []
    for life in range(25):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITES_UNTIL_KILLED, str(path), f"life{life}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout
        lines = [writer.stdout.readline()]
        time.sleep(chance.random() * 0.05)
        writer.kill()
        lines += writer.stdout.read().split("\n")
        writer.wait()
        whole = [line.split() for line in lines if len(line.split()) == 3]
        acknowledged |= {key: owed for key, owed, _ in whole}
        counted += [int(count) for _, _, count in whole]
    assert len(acknowledged) > 100
    assert len(counted) == len(set(counted))
    asyncio.run(all_there(path, acknowledged))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def all_there(path: Path, acknowledged: dict[str, str]) -> None:
    async with SqliteStore(path) as store:
        for key, owed in acknowledged.items():
            document = await store.load(key)
            assert document, key
            settled = int(key.rpartition("/")[2]) % 3 == 0
            assert settled or [envelope.id for envelope in document.owed] == [owed]


async def test_a_missing_file_is_a_new_one_of_mode_0600(tmp_path):
    async with SqliteStore(tmp_path / "deep" / "nsml.db") as store:
        assert await store.scan("session") == []
    assert (tmp_path / "deep" / "nsml.db").stat().st_mode & 0o777 == 0o600


async def test_what_a_start_that_was_cut_off_left_is_no_obstacle(tmp_path):
    (tmp_path / "nsml.db.new").write_bytes(b"half")
    (tmp_path / "nsml.db.new-wal").write_bytes(b"half")
    async with SqliteStore(tmp_path / "nsml.db") as store:
        await store.commit(a_document("a/x/1"))


async def test_an_empty_file_is_damage_not_a_new_database(file):
    file.write_bytes(b"")
    assert "is empty" in await refusal(file)
    assert file.stat().st_size == 0


async def test_a_file_that_is_no_database_is_left_alone(file):
    file.write_bytes(b"my shopping list\n" * 50)
    assert "is not a database" in await refusal(file)
    assert file.read_bytes() == b"my shopping list\n" * 50


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
async def test_a_file_cut_short_is_damage(file, part):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    await refusal(file)


async def test_a_large_file_cut_short_is_damage_too(file, monkeypatch):
    monkeypatch.setattr(schema, "CHECK_BELOW", 0)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    await refusal(file)


async def test_a_file_with_a_page_overwritten_is_damage(file):
    content = bytearray(file.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    file.write_bytes(content)
    await refusal(file)


async def test_a_log_without_its_file_is_damage(file):
    file.with_name("nsml.db-wal").write_bytes(b"x" * 5_000)
    file.unlink()
    assert "is gone" in await refusal(file)
    assert not file.exists()


async def test_somebody_elses_database_is_left_alone(tmp_path):
    path = tmp_path / "nsml.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipe (name TEXT)")
    assert "not one of NSML's" in await refusal(path)


async def test_a_newer_format_is_left_alone(file):
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version=99")
    assert "newer NSML" in await refusal(file)


async def test_a_document_that_cannot_be_read_is_named(file):
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE document SET seen = '[' WHERE key = 'session/a/x/7'")
    async with SqliteStore(file) as store:
        with pytest.raises(Damaged, match="session/a/x/7"):
            await store.load("session/a/x/7")
        assert await store.load("session/a/x/8")


async def test_a_full_disk_is_told_and_overcome(file):
    async with SqliteStore(file) as store:
        with full_disk(), pytest.raises(Unavailable) as caught:
            await store.commit(a_document("a/x/full", text="x" * 100_000))
        assert str(file) in caught.value.message
        assert await store.load("session/a/x/full") is None
        await store.commit(a_document("a/x/full"))
        assert await store.load("session/a/x/full")
        assert await store.load("session/a/x/99")


async def test_a_full_database_says_that_the_disk_is_full(file):
    async with SqliteStore(file) as store:
        connection = store._writer.connection
        await store._write(lambda c: c.execute("PRAGMA page_count").fetchone())
        connection.execute("PRAGMA max_page_count=1")
        with pytest.raises(Unavailable, match="is full"):
            await store.commit(a_document("a/x/full", text="x" * 100_000))
        connection.execute("PRAGMA max_page_count=1000000")
        await store.commit(a_document("a/x/full"))


async def test_what_fails_of_a_bug_fails_alone(file):
    async with SqliteStore(file) as store:
        good = [store.commit(a_document(f"b/x/{number}")) for number in range(5)]
        bad = store._write(lambda connection: connection.execute("SELECT nonsense FROM nowhere"))
        worse = store._write(lambda connection: 1 // 0)
        outcomes = await asyncio.gather(good[0], bad, *good[1:3], worse, *good[3:], return_exceptions=True)
        assert [outcome is None for outcome in outcomes] == [True, False, True, True, False, True, True]
        assert len(await store.scan("session", {"state": "queued"})) == 105


async def test_a_long_scan_does_not_delay_a_commit(file):
    async with SqliteStore(file) as store:
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT max(i) FROM n"
        scan = asyncio.create_task(store._read(lambda c: c.execute(many).fetchone()))
        await asyncio.sleep(0.01)
        await store.commit(a_document("a/x/quick"))
        assert not scan.done()
        await scan


@pytest.mark.parametrize(
    ("kind", "condition"),
    [(kind, f"{schema.field(name)} IN (?)") for kind, names in schema.FIELDS.items() for name in names],
)
async def test_what_is_often_asked_for_is_found_by_an_index(file, kind, condition):
    async with SqliteStore(file) as store:
        sql = f"EXPLAIN QUERY PLAN SELECT key FROM document WHERE kind='{kind}' AND {condition}"
        ((_, _, _, plan),) = await store._read(lambda c: c.execute(sql, ("x",)).fetchall())
    assert f"USING INDEX {kind}_" in plan or f"USING COVERING INDEX {kind}_" in plan


async def test_the_newest_sessions_are_found_without_sorting_all(file):
    async with SqliteStore(file) as store:
        sql, _ = select("body", "session", {}, "-created")
        plan = await store._read(lambda c: c.execute(f"EXPLAIN QUERY PLAN {sql}", (9,)).fetchall())
    assert [step[3] for step in plan] == ["SCAN document USING INDEX session_created"]


@pytest.mark.parametrize(
    ("kind", "where", "index"),
    [
        ("session", {"state": ("queued", "running")}, "session_state"),
        ("session", {"state": "queued", "owner": "a"}, "session_state"),
        ("checkpoint", {"session": tuple("abcdefghijklmnop"), "dropped": False}, "checkpoint_session"),
    ],
)
async def test_the_few_that_are_asked_for_are_found_without_reading_the_others(file, kind, where, index):
    async with SqliteStore(file) as store:
        sql, values = select("body", kind, where, "-created")
        plan = await store._read(lambda c: c.execute(f"EXPLAIN QUERY PLAN {sql}", (*values, 9)).fetchall())
    assert plan[0][3].startswith(f"SEARCH document USING INDEX {index}")


async def test_commits_made_at_once_share_the_waiting_for_the_disk(file):
    async with SqliteStore(file) as store:
        transactions = []
        store._writer.connection.set_trace_callback(
            lambda sql: transactions.append(sql) if sql.startswith("COMMIT") else None
        )
        await asyncio.gather(*(store.commit(a_document(f"c/x/{number}")) for number in range(200)))
        assert len(transactions) < 20


async def test_opening_many_times_leaves_no_thread_or_file_open(file):
    async def once() -> None:
        async with SqliteStore(file) as store:
            await store.scan("session")
            await store.count("x")

    await once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        await once()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert not file.with_name("nsml.db-wal").exists()


async def test_the_version_that_a_reader_sees_is_never_half_written(file):
    async with SqliteStore(file) as store:
        document = a_document("a/x/racing", left=0, right=0)
        await store.commit(document)
        stop = False

        async def write() -> None:
            nonlocal document
            for number in range(1, 200):
                document = replace(
                    document, version=document.version + 1, body={"left": number, "right": number}
                )
                await store.commit(document)

        async def read() -> None:
            while not stop:
                seen = (await store.load("session/a/x/racing")).body
                assert seen["left"] == seen["right"]
                await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        await write()
        stop = True
        await reading
