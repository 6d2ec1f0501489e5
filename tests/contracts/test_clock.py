"""What every clock promises, the one that tests drive included."""

from __future__ import annotations

import asyncio
import time

import pytest
from fakes import ManualClock

from nsml.core.ports import Clock


def test_monotonic_time_never_goes_back(any_clock):
    readings = [any_clock.monotonic() for _ in range(10_000)]
    assert readings == sorted(readings)


def test_wall_time_is_seconds_since_1970(any_clock):
    assert abs(any_clock.now() - time.time()) < 5


async def test_a_sleep_lasts_at_least_as_long_as_asked(any_clock):
    before = any_clock.monotonic()
    await any_clock.sleep(0.02)
    assert any_clock.monotonic() - before >= 0.02


async def test_a_sleep_honours_cancellation(any_clock):
    sleeper = asyncio.create_task(any_clock.sleep(3600))
    await asyncio.sleep(0)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper


def test_it_is_a_clock(any_clock):
    assert isinstance(any_clock, Clock)
    assert isinstance(ManualClock(), Clock)


async def test_a_manual_clock_wakes_its_sleepers_in_order_and_not_before_time():
    clock, woken = ManualClock(now=100.0), []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.now()))

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2):
            group.create_task(sleep(seconds))
        await asyncio.sleep(0)
        assert clock.sleepers == 3
        await clock.run(2.5, step=0.5)
        assert woken == [(1, 101.0), (2, 102.0)]
        clock.jump(-3600)
        await clock.run(1)
    assert woken[2][0] == 3
    assert clock.monotonic() == 3.5
