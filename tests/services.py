"""A service run for the length of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol


class Service(Protocol):
    ready: asyncio.Event

    async def run(self) -> None: ...


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    """*services* run and are ready; what ends one of them early comes out at the end."""
    tasks = [asyncio.create_task(service.run(), name=type(service).__name__) for service in services]
    ready = asyncio.gather(*(service.ready.wait() for service in services))
    try:
        await asyncio.wait([ready, *tasks], return_when=asyncio.FIRST_COMPLETED, timeout=5)
        yield
    finally:
        ready.cancel()
        for task in tasks:
            task.cancel()
        for task in (ready, *tasks):
            with suppress(asyncio.CancelledError):
                await task
