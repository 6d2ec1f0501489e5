"""What `apply` needs to know of a kind of document: its class, its name in keys, and who decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from nsml.core.messages import SCHEDULER, Envelope, Message
from nsml.core.plain import plain, trusted

Body = TypeVar("Body")
SEEN_KEPT = 64  # repeats older than that are caught by the state and attempt guards
MOST_OWED = 256  # a broker down for long: refuse further commands rather than grow without bound


@dataclass(frozen=True, slots=True)
class Change(Generic[Body]):
    """A document after a message, and the messages it owes: (message, node or "")."""

    body: Body
    owes: tuple[tuple[Message, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Subject(Generic[Body]):
    """A kind of document; *decide* is pure: (body or None, envelope) → Change, or None for no change.

    A command that meets no rule raises `Refused` (or another `NsmlError`); an event that meets none is old
    news: None.
    """

    kind: str
    cls: type[Body]
    decide: Callable[[Body | None, Envelope], Change[Body] | None]

    def key(self, name: str) -> str:
        return f"{self.kind}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a store keeps under `key`: the body's plain form, and beside it the inbox (`seen`) and the
    outbox (`owed`) that change with it in one write. `version` counts the writes, 0 is not yet stored."""

    key: str
    body: dict[str, Any] | None = None
    version: int = 0
    term: int = 0
    seen: tuple[str, ...] = ()
    owed: tuple[Envelope, ...] = ()

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]

    def value(self, subject: Subject[Body]) -> Body | None:
        """The body as a value."""
        return None if self.body is None else trusted(subject.cls, self.body)

    def after(self, change: Change[Any], envelope: Envelope, term: int) -> Document:
        """This document after *change*, with what it owes, as the next version."""
        version = self.version + 1
        owed = tuple(
            Envelope(
                id=owed_id(envelope.id, self.key, version, i),
                body=message,
                at=envelope.at,
                actor=SCHEDULER,
                cause=envelope.id,
                version=version,
                to=to,
            )
            for i, (message, to) in enumerate(change.owes)
        )
        return replace(
            self,
            body=plain(change.body),
            version=version,
            term=max(term, self.term),
            seen=(*self.seen, envelope.id)[-SEEN_KEPT:],
            owed=self.owed + owed,
        )


def owed_id(cause: str, key: str, version: int, index: int) -> str:
    """The id of an owed message: the same whenever the same change is made again."""
    return hashlib.sha256(f"{cause}|{key}|{version}|{index}".encode()).hexdigest()[:32]
