"""A notice: one mail owed for one event, until it is sent or given up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from nsml.core import catalogue as c
from nsml.core.messages import Envelope
from nsml.core.subject import Change, Subject


class NoticeState(StrEnum):
    DUE = "due"
    SENT = "sent"
    GIVEN_UP = "given-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A mail as recorded; its id, the id of the event it tells of, becomes the Message-ID."""

    id: str
    state: NoticeState
    recipient: str
    subject: str
    text: str
    session: str = ""
    due: float = 0.0
    reason: str = ""


def decide(notice: Notice | None, envelope: Envelope) -> Change[Notice] | None:
    """The change that a message makes to *notice*; None when it makes none."""
    message = envelope.body
    if isinstance(message, c.NoticeDue):
        if notice is not None:
            return None
        return Change(
            Notice(
                id=envelope.id,
                state=NoticeState.DUE,
                recipient=message.recipient,
                subject=message.subject,
                text=message.text,
                session=message.session,
                due=envelope.at,
            )
        )
    if notice is None or notice.state is not NoticeState.DUE:
        return None
    if isinstance(message, c.NoticeSent):
        return Change(replace(notice, state=NoticeState.SENT, text=""))
    if isinstance(message, c.NoticeGivenUp):
        return Change(replace(notice, state=NoticeState.GIVEN_UP, reason=message.reason))
    return None


NOTICE: Subject[Notice] = Subject("notice", Notice, decide)
