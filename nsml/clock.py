"""The system's time: the only place that reads it."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall time, monotonic time and sleep, as the operating system tells them."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
