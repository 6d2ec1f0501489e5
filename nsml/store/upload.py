"""An upload that is fed part by part, and that leaves nothing behind when it is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any

PATIENCE = 5.0  # seconds to tell the server to forget what it has; it forgets by itself some day


class CutOff(Exception):
    """What the driver is told when no more comes: it then takes back what it has sent."""


class Upload:
    """Runs *put*, a driver's upload of an async generator, beside whoever hands it the parts. The driver
    takes back what it has sent when the generator fails, but not when it is cancelled itself."""

    def __init__(self, put: Callable[[AsyncGenerator[bytes, None]], Coroutine[Any, Any, Any]]) -> None:
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._cut = asyncio.Event()
        self._task = asyncio.ensure_future(put(self._fed()))
        self._task.add_done_callback(_looked_at)

    async def _fed(self) -> AsyncGenerator[bytes, None]:
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            while True:
                part = asyncio.ensure_future(self._parts.get())
                await asyncio.wait({part, cut}, return_when=asyncio.FIRST_COMPLETED)
                if self._cut.is_set():
                    part.cancel()
                    raise CutOff
                data = part.result()
                if data is None:
                    return
                yield data
        finally:
            cut.cancel()

    async def hand(self, part: bytes | None) -> None:
        """Give it the next part once it has taken the last; raises what ended the upload."""
        put = asyncio.ensure_future(self._parts.put(part))
        try:
            await asyncio.wait({put, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()
        if self._task.done():
            self._task.result()

    async def finish(self) -> None:
        """Nothing more comes: return once all of it is stored."""
        await self.hand(None)
        await asyncio.shield(self._task)

    async def cut_off(self) -> None:
        """Give it up; what was sent is taken back."""
        self._cut.set()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({self._task}, timeout=PATIENCE)
        self._task.cancel()


def _looked_at(task: asyncio.Task[Any]) -> None:
    """How it ended is told by `hand` and `finish`; after a cut nobody asks any more."""
    if not task.cancelled():
        task.exception()
