"""Who leads: one at a time, followed by another only when it is silent, gone, or gives the lease back."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes import ManualClock, until

from nsml.core.subject import Document
from nsml.scheduler.lease import KEY, Deposed, Lease, process_start
from nsml.scheduler.policy import Patience
from nsml.store.sqlite import SqliteStore

PATIENCE = Patience()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "nsml.db") as opened:
        yield opened


async def test_the_first_takes_it_at_once_and_the_second_does_not(store: SqliteStore) -> None:
    clock = ManualClock()
    first, second = Lease(store, clock, "a/1", PATIENCE), Lease(store, clock, "b/1", PATIENCE)
    assert await first.try_take()
    assert not await second.try_take()
    assert (first.term, second.term) == (1, 0)


async def test_a_silent_leader_is_followed_under_a_higher_term_and_learns_it(store: SqliteStore) -> None:
    clock = ManualClock()
    first, second = Lease(store, clock, "a/1", PATIENCE), Lease(store, clock, "b/1", PATIENCE)
    await first.try_take()
    assert not await second.try_take()
    clock.advance(PATIENCE.lease + 1)
    assert await second.try_take()
    assert second.term == 2
    keeping = asyncio.create_task(first.keep())
    await until(lambda: clock.sleepers)
    clock.advance(PATIENCE.renew)
    with pytest.raises(Deposed):
        await keeping


async def test_a_leader_that_renews_is_never_followed(store: SqliteStore) -> None:
    clock = ManualClock()
    first, second = Lease(store, clock, "a/1", PATIENCE), Lease(store, clock, "b/1", PATIENCE)
    await first.try_take()
    keeping = asyncio.create_task(first.keep())
    for _ in range(10):
        await until(lambda: clock.sleepers)
        before = await store.load(KEY)
        clock.advance(PATIENCE.renew)

        async def is_renewed(before: Document | None = before) -> bool:
            now = await store.load(KEY)
            return now is not None and before is not None and now.version > before.version

        await until(is_renewed)
        assert not await second.try_take()
    keeping.cancel()


async def test_what_is_given_back_need_not_be_waited_for(store: SqliteStore) -> None:
    clock = ManualClock()
    first, second = Lease(store, clock, "a/1", PATIENCE), Lease(store, clock, "b/1", PATIENCE)
    await first.try_take()
    await first.release()
    assert await second.try_take()
    assert second.term == 2


async def test_a_dead_process_of_this_machine_need_not_be_waited_for(store: SqliteStore) -> None:
    clock, host = ManualClock(), socket.gethostname()
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    body = {"holder": f"{host}/{program.pid}", "process": process_start(program.pid), "released": False}
    await store.commit(Document(key=KEY, body=body, version=1, term=4))
    lease = Lease(store, clock, f"{host}/{os.getpid()}", PATIENCE)
    assert not await lease.try_take()
    program.kill()
    program.wait()
    assert await lease.try_take()
    assert lease.term == 5


async def test_a_former_life_of_this_process_need_not_be_waited_for(store: SqliteStore) -> None:
    clock = ManualClock()
    assert await Lease(store, clock, "a/1", PATIENCE).try_take()
    again = Lease(store, clock, "a/1", PATIENCE)
    assert await again.try_take()
    assert again.term == 2
