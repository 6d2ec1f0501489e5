"""Lanes: messages of one key one after another, in the order they came; of different keys side by side."""

from __future__ import annotations

import asyncio

CONCURRENCY = 32  # messages handled at once: enough to fill a disk, few enough to hold in memory
LANES = 256  # two keys that share a lane wait for each other; with so many that is rare


class Lanes:
    """Locks, of which each key has one; they are handed on first come, first served."""

    def __init__(self) -> None:
        self._locks = [asyncio.Lock() for _ in range(LANES)]

    def of(self, key: str) -> asyncio.Lock:
        return self._locks[hash(key) % LANES]
