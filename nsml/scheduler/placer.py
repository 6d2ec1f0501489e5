"""The placing loop: from what waits to what starts, and what those are told who go on waiting."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from nsml.core import catalogue as c
from nsml.core.session import SESSION
from nsml.core.subject import Document
from nsml.scheduler.books import PAUSE, Books
from nsml.scheduler.explain import Reason, explain
from nsml.scheduler.fairness import remember
from nsml.scheduler.placement import Plan, plan
from nsml.scheduler.policy import Placing
from nsml.scheduler.snapshot import Snapshot, snapshot

log = logging.getLogger(__name__)

QUEUE = "queue/main"


class Placer:
    """One pass at a time; wake-ups during a pass make one more. The reasons are written beside it, not more
    often than people can read."""

    def __init__(self, placing: Placing, books: Books) -> None:
        self._placing = placing
        self._books = books
        self._past: dict[str, float] = {}
        self._past_at = books.clock.monotonic()
        self._latest: tuple[Snapshot, Plan] | None = None
        self._passed = asyncio.Event()
        self._told: list[dict[str, Any]] | None = None

    async def run(self) -> None:
        """Place what waits, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._place(), name="scheduler: place")
            group.create_task(self._tell(), name="scheduler: tell")

    async def _place(self) -> None:
        clock = self._books.clock
        while True:
            await self._books.changed.wait()
            self._books.changed.clear()
            began = clock.monotonic()
            if not await self._books.attempt(self._pass, "placing"):
                self._books.changed.set()
                await clock.sleep(PAUSE)
            await clock.sleep(max(self._placing.min_delay, clock.monotonic() - began))

    async def _pass(self) -> None:
        index = self._books.index
        self._remember()
        if index.waiting:
            now = snapshot(
                self._books.clock.now(),
                index.nodes.values(),
                index.waiting.values(),
                index.holders.values(),
                self._books.cached,
                self._past,
            )
            planned = plan(now, self._placing)
            self._latest = now, planned
            await self._carry_out(now, planned)
        else:
            self._latest = None
        self._passed.set()

    def _remember(self) -> None:
        now = self._books.clock.monotonic()
        holders = self._books.index.holders.values()
        self._past = remember(self._past, holders, now - self._past_at, self._placing.fairness)
        self._past_at = now

    async def _carry_out(self, now: Snapshot, planned: Plan) -> None:
        """All of the plan side by side: the store makes one transaction of it. What does not hold any more
        (the session was stopped meanwhile) changes nothing."""
        turned_away = [session for session in planned.waiting if session.no_queue]
        reasons = (
            {r.session: r.reason for r in explain(now, planned, self._placing.told)} if turned_away else {}
        )
        async with asyncio.TaskGroup() as group:
            for place in planned.places:
                start = c.PlaceSession(session=place.session, slots=place.slots)
                group.create_task(self._books.decide(SESSION, place.session, start), name="place")
            for preempt in planned.preempts:
                stop = c.PreemptSession(
                    session=preempt.session,
                    attempt=preempt.attempt,
                    reason=f"made room for {preempt.wanted_by}, which has a higher priority",
                )
                group.create_task(self._books.decide(SESSION, preempt.session, stop), name="preempt")
            for session in turned_away:
                why = reasons.get(session.id, "nothing is free now")
                drop = c.TurnAwaySession(session=session.id, reason=why)
                group.create_task(self._books.decide(SESSION, session.id, drop), name="turn away")
        for place in planned.places:
            log.info("session placed", extra={"session": place.session, "on": place.slots[0].node})

    # -- what people read --------------------------------------------------------------------------------
    async def _tell(self) -> None:
        while True:
            await self._passed.wait()
            self._passed.clear()
            told = self._told
            if not await self._books.attempt(self._write_reasons, "telling reasons"):
                self._passed.set()
                await self._books.clock.sleep(PAUSE)
            if told is not self._told:
                await self._books.clock.sleep(self._placing.tell_delay)

    async def _write_reasons(self) -> None:
        """Write why each waits, if that is another reason than before."""
        reasons: tuple[Reason, ...] = ()
        if self._latest is not None:
            reasons = explain(*self._latest, self._placing.told)
        waiting = [
            {"session": r.session, "position": place, "reason": r.reason, "nearest": r.nearest}
            for place, r in enumerate(reasons, start=1)
            if r.session in self._books.index.waiting
        ]
        if waiting == self._told:
            return
        store, term = self._books.store, self._books.lease.term
        before = await store.load(QUEUE) or Document(key=QUEUE)
        body = {"at": self._books.clock.now(), "waiting": waiting}
        await store.commit(Document(key=QUEUE, body=body, version=before.version + 1, term=term))
        self._told = waiting
