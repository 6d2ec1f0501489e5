"""apply(): one message changes one document, once, together with what it owes."""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar

from nsml.core.errors import Conflict, Fenced, Refused
from nsml.core.messages import Envelope
from nsml.core.ports import Store
from nsml.core.subject import MOST_OWED, Document, Subject

Body = TypeVar("Body")


async def apply(
    store: Store, subject: Subject[Body], name: str, envelope: Envelope, term: int = 0
) -> Document | None:
    """Let *envelope* change the document *name* of *subject*; the committed document, or None when nothing
    changed (a repeat, old news).

    Raises what `subject.decide` refuses with; `Refused` for a command while too much is owed; `Fenced` when
    the document was written under a higher *term* (0: not a leader's write, never fenced); `Unavailable`.
    """
    key = subject.key(name)
    while True:
        document = await store.load(key) or Document(key=key)
        if envelope.id in document.seen:
            return None
        _check(document, envelope, term)
        change = subject.decide(document.value(subject), envelope)
        if change is None:
            return None
        after = document.after(change, envelope, term)
        with suppress(Conflict):  # somebody was faster: look again, decide again
            await store.commit(after)
            return after


def _check(document: Document, envelope: Envelope, term: int) -> None:
    if term and document.term > term:
        raise Fenced(f"{document.key} was written under term {document.term}, not {term}.")
    if envelope.body.form == "cmd" and len(document.owed) > MOST_OWED:
        raise Refused(
            f"{document.key} owes {len(document.owed)} messages: nobody has taken them for long.",
            hint="See 'nsml status' for what is away, and try again when it is back.",
        )
