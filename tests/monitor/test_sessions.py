"""The session monitor keeps a summary for each session that reports."""

from __future__ import annotations

import json
import struct

import pytest
from services import running

from nsml.core import catalogue as c
from nsml.core.messages import Envelope
from nsml.core.summary import SUMMARY
from nsml.monitor.sessions import SessionMonitor

SESSION = "alice/mnist/1"


@pytest.fixture
def monitor(store, bus, clock):
    return SessionMonitor(store, bus, clock)


def report(**values: float) -> bytes:
    payload = json.dumps({"op": "report", "at": 1.0, "step": 1, "summary": True, "values": values}).encode()
    return struct.pack("<IB", len(payload), 1) + payload


def grew(data: bytes, offset: int = 0, session: str = SESSION) -> Envelope:
    body = c.OutboxGrew(session=session, stream=f"outbox/{session}/1", offset=offset, data=data)
    return Envelope(body=body, at=9.0, actor="node:n1")


def removed(session: str) -> Envelope:
    return Envelope(body=c.SessionRemoved(session=session, owner="alice", attempts=1), at=200.0)


async def kept(store, session: str = SESSION):
    document = await store.load(SUMMARY.key(session))
    return document.value(SUMMARY) if document else None


async def test_reports_become_the_summary(monitor, store, bus):
    first = report(epoch=1, epoch_total=4)
    async with running(monitor):
        await bus.publish(grew(first))
        await bus.publish(grew(report(epoch=2, epoch_total=4), offset=len(first)))
    summary = await kept(store)
    assert summary.summary == {"epoch": 2, "epoch_total": 4}
    assert (summary.progress, summary.reports) == (0.5, 2)


async def test_the_same_report_twice_counts_once(monitor, store, bus):
    envelope = grew(report(loss=1.5))
    async with running(monitor):
        for again in (envelope, envelope, grew(report(loss=1.5))):
            await bus.publish(again)
    assert (await kept(store)).reports == 1


async def test_it_goes_on_after_a_restart(monitor, store, bus, clock):
    first = report(loss=1.5)
    async with running(monitor):
        await bus.publish(grew(first))
    async with running(SessionMonitor(store, bus, clock)):
        await bus.publish(grew(report(loss=0.5), offset=len(first)))
    assert (await kept(store)).values == {"loss": 0.5}


async def test_a_summary_owes_nobody_anything(monitor, store, bus):
    async with running(monitor):
        await bus.publish(grew(report(loss=1.5)))
    assert await store.owing() == []


async def test_a_removed_session_loses_its_summary_and_its_neighbours_keep_theirs(monitor, store, bus):
    async with running(monitor):
        await bus.publish(grew(report(loss=1.5)))
        await bus.publish(grew(report(loss=1.5), session="alice/mnist/12"))
        await bus.publish(removed(SESSION))
        await bus.publish(grew(report(loss=2.5)))  # late
    assert await kept(store) is None
    assert (await kept(store, "alice/mnist/12")).values == {"loss": 1.5}


async def test_removing_what_never_reported_is_fine(monitor, store, bus):
    async with running(monitor):
        await bus.publish(removed(SESSION))
    assert not await bus.parked()
