"""How long to wait before trying again what failed because a server was away."""

from __future__ import annotations

from collections.abc import Iterator

FIRST = 0.05  # a server that restarts is often back at once
MOST = 5.0  # so that people wait at most that long once it is back


def pauses() -> Iterator[float]:
    """0.05, 0.1, 0.2 … 5, 5, 5 seconds, for ever."""
    pause = FIRST
    while True:
        yield pause
        pause = min(MOST, pause * 2)
