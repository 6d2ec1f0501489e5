"""The notifier: exactly one mail per failure, whatever is repeated, restarted or away."""

from __future__ import annotations

import asyncio

import pytest
from fakes import ManualClock, until
from services import running

from nsml.core import catalogue as c
from nsml.core.errors import BadInput, Unavailable
from nsml.core.messages import Envelope
from nsml.core.notice import NOTICE
from nsml.core.ports import Mail
from nsml.core.resources import Slot
from nsml.core.session import SESSION
from nsml.notify.rules import Mailing
from nsml.notify.service import FIRST_RETRY, LAST_RETRY, Notifier
from nsml.store.unit import apply


class Mailer:
    """A mailer that keeps what it sends, and fails as it is told."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []
        self.tries = 0
        self.error: Exception | None = None

    async def send(self, mail: Mail) -> None:
        self.tries += 1
        if self.error:
            raise self.error
        self.sent.append(mail)


@pytest.fixture
def mailer():
    return Mailer()


@pytest.fixture
def notifier(store, bus, mailer, clock):
    return Notifier(Mailing(operator="ops"), store, bus, mailer, clock)


def failed(session: str = "alice/mnist/1", **changes: str) -> Envelope:
    body = c.SessionFailed(
        session=session, owner="alice", attempt=1, code=3, cause="error", seconds=1.0, reason="exit code 3"
    )
    return Envelope(body=body, at=50.0, **changes)


async def states(store) -> list[str]:
    return sorted(document.body["state"] for document in await store.scan("notice"))


async def test_a_failure_is_mailed_once(notifier, bus, mailer, store):
    event = failed()
    async with running(notifier):
        await bus.publish(event)
        await until(lambda: mailer.sent)
        await until(lambda: _is(states(store), ["sent"]))
    (mail,) = mailer.sent
    assert (mail.id, mail.recipient, mail.thread) == (event.id, "alice@localhost", "alice/mnist/1")
    assert "exit code 3" in mail.subject


async def _is(coming, expected) -> bool:
    return await coming == expected


async def test_an_event_that_comes_again_and_again_is_mailed_once(notifier, bus, mailer, store):
    event = failed()
    async with running(notifier):
        for _ in range(3):
            await bus.publish(event)
        await until(lambda: mailer.sent)
        await bus.publish(event)
        await bus.publish(failed("alice/mnist/2"))
        await until(lambda: len(mailer.sent) > 1)
    assert [mail.thread for mail in mailer.sent] == ["alice/mnist/1", "alice/mnist/2"]


async def test_stops_and_completions_are_not_mailed(notifier, bus, mailer, store):
    ended = [
        c.SessionStopped(session="a/b/1", owner="a", attempt=1, reason="stopped by a"),
        c.SessionCompleted(session="a/b/1", owner="a", attempt=1, seconds=1.0),
    ]
    async with running(notifier):
        for body in ended:
            await bus.publish(Envelope(body=body, at=1.0))
        await bus.publish(failed())
        await until(lambda: mailer.sent)
    assert len(mailer.sent) == 1 and await states(store) in (["due"], ["sent"])


async def test_a_notice_that_was_due_when_the_process_died_is_sent_by_the_next(notifier, store, mailer):
    due = c.NoticeDue(recipient="alice@localhost", subject="failed", text="It failed.", session="a/b/1")
    await apply(store, NOTICE, "event", Envelope(id="event", body=due, at=1.0))
    async with running(notifier):
        await until(lambda: _is(states(store), ["sent"]))
    assert [mail.id for mail in mailer.sent] == ["event"]


async def test_a_crash_between_the_mail_and_its_record_sends_the_same_mail_id_again(
    notifier, store, bus, mailer, clock
):
    event = failed()

    class Dies(Mailer):
        async def send(self, mail: Mail) -> None:
            await super().send(mail)
            raise asyncio.CancelledError

    first = Dies()
    async with running(Notifier(Mailing(), store, bus, first, clock)):
        await asyncio.wait([asyncio.create_task(bus.publish(event))], timeout=1)
        await until(lambda: first.sent)
    async with running(notifier):
        await until(lambda: _is(states(store), ["sent"]))
    assert [mail.id for mail in first.sent] == [mail.id for mail in mailer.sent] == [event.id]


async def test_a_mail_server_that_is_away_is_tried_again_ever_more_rarely(store, bus, mailer):
    class Restless(ManualClock):
        """A clock that notes how long it should sleep instead of doing so."""

        slept: list[float] = []

        async def sleep(self, seconds: float) -> None:
            self.slept.append(seconds)
            if len(self.slept) == 12:
                mailer.error = None

    clock = Restless()
    mailer.error = Unavailable("The mail server is away.")
    async with running(Notifier(Mailing(), store, bus, mailer, clock)):
        await bus.publish(failed())
        await until(lambda: _is(states(store), ["sent"]))
    assert clock.slept[:5] == [FIRST_RETRY, 2, 4, 8, 16] and clock.slept[-1] == LAST_RETRY
    assert len(mailer.sent) == 1 and mailer.tries == 13


@pytest.mark.parametrize("error", [BadInput("no such address"), RuntimeError("bug")])
async def test_a_mail_that_can_never_be_sent_is_given_up_and_holds_back_no_other(
    notifier, bus, mailer, store, error
):
    mailer.error = error
    async with running(notifier):
        await bus.publish(failed())
        await until(lambda: _is(states(store), ["given-up"]))
        mailer.error = None
        await bus.publish(failed("alice/mnist/2"))
        await until(lambda: _is(states(store), ["given-up", "sent"]))
    assert mailer.tries == 2 and [mail.thread for mail in mailer.sent] == ["alice/mnist/2"]


async def test_a_lost_node_is_one_mail_that_lists_the_sessions_on_it(notifier, bus, mailer, store):
    for n in range(1, 4):
        await _a_placed_session(store, f"alice/mnist/{n}", "n1,n2" if n == 1 else "n1" if n == 2 else "n11")
    async with running(notifier):
        event = Envelope(body=c.NodeLost(node="n1", reason="silent for 30 s"), at=1.0)
        await bus.publish(event)
        await bus.publish(event)
        await until(lambda: mailer.sent)
        await until(lambda: _is(states(store), ["sent"]))
    (mail,) = mailer.sent
    assert mail.recipient == "ops@localhost" and "2 sessions affected" in mail.subject
    assert "alice/mnist/1" in mail.text and "alice/mnist/2" in mail.text and "alice/mnist/3" not in mail.text


async def _a_placed_session(store, session: str, nodes: str) -> None:
    run = c.RunSession(session=session, run=c.Run(code="0" * 64))
    await apply(store, SESSION, session, Envelope(body=run, at=1.0, actor="user:alice"))
    slots = tuple(Slot(node=node) for node in nodes.split(","))
    await apply(store, SESSION, session, Envelope(body=c.PlaceSession(session=session, slots=slots), at=2.0))


async def test_many_failures_at_once_are_all_mailed(notifier, bus, mailer, store, monkeypatch):
    monkeypatch.setattr("nsml.notify.service.AT_ONCE", 7)
    async with running(notifier):
        for n in range(30):
            await bus.publish(failed(f"alice/mnist/{n}"))
        await until(lambda: _is(states(store), ["sent"] * 30))
    assert len({mail.id for mail in mailer.sent}) == len(mailer.sent) == 30


async def test_it_sleeps_when_nothing_is_due(notifier, bus, mailer, store, clock):
    async with running(notifier):
        await bus.publish(failed())
        await until(lambda: _is(states(store), ["sent"]))
        assert clock.sleepers == 0
