"""Fixtures that open each port's adapters in a fresh folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import adapters
import pytest
from fakes import ManualClock

from nsml.core.ports import Blobs, Bus, Clock, Store, Streams


@pytest.fixture(params=tuple(adapters.BUSES))
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    async with adapters.BUSES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=tuple(adapters.STORES))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """A function that opens the same store each time: what an earlier one left is there."""
    return lambda: adapters.STORES[request.param](tmp_path)


@pytest.fixture
async def store(open_store: Callable[[], Store]) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened


@pytest.fixture(params=tuple(adapters.STREAMS))
async def streams(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Streams]:
    async with adapters.STREAMS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=tuple(adapters.BLOBS))
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    async with adapters.BLOBS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=tuple(adapters.CLOCKS))
def any_clock(request: pytest.FixtureRequest, tmp_path: Path) -> Clock:
    return adapters.CLOCKS[request.param](tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
