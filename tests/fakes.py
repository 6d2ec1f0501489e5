"""Stand-ins that tests drive by hand: a clock, and waiting for a condition without guessing how long."""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nsml.core.messages import Envelope, Message

T = TypeVar("T")


class ManualClock:
    """Time that passes only when a test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._started = now
        self._passed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._started + self._passed

    def monotonic(self) -> float:
        return self._passed

    @property
    def sleepers(self) -> int:
        """How many sleep now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return await asyncio.sleep(0)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass; who slept until then goes on at the next step of the loop."""
        until_then = self._passed + seconds
        while self._sleepers and self._sleepers[0][0] <= until_then:
            self._passed, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
        self._passed = until_then

    async def run(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, and let everybody act at each."""
        end = self._passed + seconds
        while self._passed < end:
            self.advance(min(step, end - self._passed))
            for _ in range(10):
                await asyncio.sleep(0)

    def jump(self, seconds: float) -> None:
        """Set the wall clock, forwards or backwards; monotonic time does not notice."""
        self._started += seconds


async def until(condition: Callable[[], T | Awaitable[T]], timeout: float = 5.0) -> T:
    """The first true value of *condition*, which is asked again and again; an error after *timeout* seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.002)


def an_envelope(message: Message, actor: str = "user:alice", **meta: Any) -> Envelope:
    """*message* as *actor* would send it."""
    return Envelope(**{"body": message, "at": 1_800_000_000.0, "actor": actor, **meta})
