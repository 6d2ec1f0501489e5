"""A notice is due once, and then sent or given up."""

from __future__ import annotations

import pytest

from nsml.core import catalogue as c
from nsml.core.messages import Envelope, Message
from nsml.core.notice import Notice, NoticeState, decide

DUE = c.NoticeDue(recipient="alice@localhost", subject="failed", text="It failed.", session="alice/mnist/12")


def envelope(message: Message) -> Envelope:
    return Envelope(id="event", body=message, at=5.0)


def after(*messages: Message) -> Notice:
    notice = None
    for message in messages:
        change = decide(notice, envelope(message))
        notice = change.body if change else notice
    assert notice is not None
    return notice


def test_a_due_notice_holds_the_whole_mail():
    notice = after(DUE)
    assert (notice.id, notice.state, notice.due) == ("event", NoticeState.DUE, 5.0)
    assert (notice.recipient, notice.subject, notice.text) == ("alice@localhost", "failed", "It failed.")


def test_a_sent_notice_forgets_its_text():
    notice = after(DUE, c.NoticeSent())
    assert (notice.state, notice.text) == (NoticeState.SENT, "")


def test_a_notice_given_up_says_why_and_keeps_its_text():
    notice = after(DUE, c.NoticeGivenUp(reason="no such address"))
    assert (notice.state, notice.reason) == (NoticeState.GIVEN_UP, "no such address")
    assert notice.text == "It failed."


@pytest.mark.parametrize("before", [(DUE,), (DUE, c.NoticeSent()), (DUE, c.NoticeGivenUp(reason="x"))])
def test_the_same_event_again_changes_nothing(before):
    assert decide(after(*before), envelope(DUE)) is None


@pytest.mark.parametrize("end", [c.NoticeSent(), c.NoticeGivenUp(reason="x")])
@pytest.mark.parametrize("late", [c.NoticeSent(), c.NoticeGivenUp(reason="y"), DUE])
def test_an_end_is_an_end(end, late):
    assert decide(after(DUE, end), envelope(late)) is None


@pytest.mark.parametrize(
    "message", [c.NoticeSent(), c.NoticeGivenUp(reason="x"), c.NodeJoined(node="n", gpus=1)]
)
def test_what_was_never_due_cannot_end(message):
    assert decide(None, envelope(message)) is None
    assert not isinstance(message, c.NodeJoined) or decide(after(DUE), envelope(message)) is None
