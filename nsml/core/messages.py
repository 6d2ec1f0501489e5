"""What travels on the bus: messages, the envelope around each, and the route it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar, dataclass_transform

from nsml.core.ids import new_id

SCHEDULER = "scheduler"  # the actor of what the platform itself owes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A flat record of ids and values; a command asks, an event tells, telemetry carries bytes."""

    name: ClassVar[str] = ""
    form: ClassVar[str] = ""
    by: ClassVar[frozenset[str]] = frozenset()


M = TypeVar("M", bound=Message)
CATALOGUE: dict[str, type[Message]] = {}


def _register(form: str, name: str, by: set[str]) -> Callable[[type[M]], type[M]]:
    def register(cls: type[M]) -> type[M]:
        made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
        made.name, made.form, made.by = name, form, frozenset(by)
        CATALOGUE[name] = made
        return made

    return register


@dataclass_transform(frozen_default=True, kw_only_default=True)
def command(name: str, by: set[str]) -> Callable[[type[M]], type[M]]:
    """Declare a command; *by* lists the kinds of actors that may send it."""
    return _register("cmd", name, by)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def event(name: str, by: set[str]) -> Callable[[type[M]], type[M]]:
    """Declare an event; *by* lists the kinds of actors that may tell it."""
    return _register("evt", name, by)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def telemetry(name: str, by: set[str]) -> Callable[[type[M]], type[M]]:
    """Declare telemetry: bytes of a stream at an offset."""
    return _register("tel", name, by)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def local(name: str) -> Callable[[type[M]], type[M]]:
    """Declare a message that never travels: a loop hands it straight to `apply`."""
    return _register("local", name, {SCHEDULER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message and its metadata.

    `id` makes a repeat harmless, `cause` is the id of the message that led here, `version` that of the
    document after the change, `term` the leader's (stamped when published), `to` a node or empty,
    `at` seconds since 1970.
    """

    body: Message
    at: float
    actor: str = SCHEDULER
    id: str = field(default_factory=new_id)
    cause: str = ""
    version: int = 0
    term: int = 0
    to: str = ""

    @property
    def name(self) -> str:
        return self.body.name

    @property
    def route(self) -> str:
        """The routing key: `cmd.session.stop`, `evt.session.stopped`, `cmd.attempt.start.n1`."""
        return f"{self.body.form}.{self.body.name}" + (f".{self.to}" if self.to else "")

    @property
    def who(self) -> tuple[str, str]:
        """The actor's kind and name: ("user", "alice"), ("node", "n1"), ("scheduler", "")."""
        kind, _, name = self.actor.partition(":")
        return kind, name
