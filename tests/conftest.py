"""Fixtures that open each port's adapters in a fresh folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import adapters
import pytest
import stores
from fakes import ManualClock

from nsml.core.ports import Blobs, Bus, Clock, Store, Streams


@pytest.fixture(scope="session", autouse=True)
def _tidy_stores() -> Iterator[None]:
    yield
    stores.tidy()


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


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]]:
    """Starts a coroutine beside the test; ended with it, and what it failed of fails the test."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(coroutine))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which adapters the contract tests tried, if any of them ran."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    if any("contracts/" in str(getattr(report, "nodeid", "")) for report in reports):
        for line in adapters.tried_and_skipped():
            terminalreporter.write_line(line)
