"""What is forgotten: the checkpoints of removed sessions, old tombstones, unused blobs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from nsml.core import catalogue as c
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.checkpoint import name as checkpoint_name
from nsml.core.errors import NotFound
from nsml.core.session import SESSION, State
from nsml.scheduler.books import ALL, Books

FIRST = 300.0  # seconds after the start, when nobody waits for the machine any more
EVERY = 3600.0
TOMBSTONE = 30 * 86400.0  # seconds a removed session's name is kept, so that no late message brings it back


class Housekeeping:
    """Nothing here is urgent but that a removed session's checkpoints are gone at once."""

    def __init__(self, books: Books, more: Callable[[], Awaitable[None]] | None) -> None:
        self._books = books
        self._more = more

    async def run(self) -> None:
        """Keep house for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_removals(), name="scheduler: removed")
            group.create_task(self._hourly(), name="scheduler: hourly")

    async def _follow_removals(self) -> None:
        while True:
            session = await self._books.removed.get()
            drop = functools.partial(self._drop_checkpoints, session)
            await self._books.attempt(drop, "dropping checkpoints")  # the hourly round does it again

    async def _drop_checkpoints(self, session: str) -> None:
        store = self._books.store
        found = await store.scan(CHECKPOINT.kind, {"session": session, "dropped": False}, limit=ALL)
        for document in found:
            saved = document.value(CHECKPOINT)
            if saved is None:
                continue
            drop = c.DropCheckpoint(session=session, checkpoint=saved.checkpoint)
            try:
                await self._books.decide(CHECKPOINT, checkpoint_name(session, saved.checkpoint), drop)
            except NotFound:
                continue  # somebody dropped it meanwhile

    async def _hourly(self) -> None:
        pause = FIRST
        while True:
            await self._books.clock.sleep(pause)
            pause = EVERY
            await self._books.attempt(self._round, "housekeeping")

    async def _round(self) -> None:
        store, now = self._books.store, self._books.clock.now()
        removed = await store.scan(SESSION.kind, {"state": str(State.REMOVED)}, order="ended", limit=1000)
        for document in removed:
            session = document.value(SESSION)
            if session is None:
                continue
            await self._drop_checkpoints(session.id)
            if now - session.ended > TOMBSTONE and not document.owed:
                for dropped in await store.scan(CHECKPOINT.kind, {"session": session.id}, limit=ALL):
                    await store.drop(dropped.key)
                await store.drop(document.key)
        if self._more is not None:
            await self._more()
