"""An envelope as a plain dict and back: what the codec puts on the bus and a store keeps as owed."""

from __future__ import annotations

import base64
import binascii
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from nsml.core import catalogue  # noqa: F401  (importing it is what fills CATALOGUE)
from nsml.core.errors import BadInput
from nsml.core.messages import CATALOGUE, Envelope
from nsml.core.plain import plain, restore


class Undecodable(BadInput):
    """What arrived is no message that this version knows."""


def written(envelope: Envelope) -> dict[str, Any]:
    """*envelope* as a dict that JSON can hold: the message's name beside its body, bytes in base64."""
    kind: Any = type(envelope.body)
    body: dict[str, Any] = plain(envelope.body)
    for field in _bytes_fields(kind):
        body[field] = base64.b64encode(body[field]).decode("ascii")
    return {
        "id": envelope.id,
        "name": envelope.name,
        "at": envelope.at,
        "actor": envelope.actor,
        "cause": envelope.cause,
        "version": envelope.version,
        "term": envelope.term,
        "to": envelope.to,
        "body": body,
    }


def read(data: object) -> Envelope:
    """The envelope that `written` made *data* from; unknown fields are ignored. Raises `Undecodable`."""
    if not isinstance(data, Mapping):
        raise Undecodable(f"A message is a JSON object, not {type(data).__name__}.")
    name = data.get("name")
    cls = CATALOGUE.get(name) if isinstance(name, str) else None
    if cls is None:
        raise Undecodable(f"There is no message called {str(name)[:80]!r}.")
    try:
        return _envelope(cls, data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Undecodable(f"A {cls.name} cannot be read: {error}.") from error


def _envelope(cls: Any, data: Mapping[str, Any]) -> Envelope:
    body = dict(data["body"])
    for field in _bytes_fields(cls):
        body[field] = _bytes(body[field])
    return Envelope(
        body=restore(cls, body),
        at=restore(float, data["at"]),
        id=restore(str, data["id"]),
        actor=restore(str, data.get("actor", "")),
        cause=restore(str, data.get("cause", "")),
        version=restore(int, data.get("version", 0)),
        term=restore(int, data.get("term", 0)),
        to=restore(str, data.get("to", "")),
    )


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error


@cache
def _bytes_fields(cls: Any) -> tuple[str, ...]:
    return tuple(name for name, kind in typing.get_type_hints(cls).items() if kind is bytes)


def first_unfit(value: Any, path: str = "") -> str | None:
    """Where *value* holds a number that JSON has no form for (NaN, Infinity); None when nowhere."""
    if type(value) is float:
        return None if value - value == 0.0 else path or "the value"
    if type(value) is dict:
        items: Any = value.items()
    elif type(value) in (list, tuple):
        items = enumerate(value)
    else:
        return None
    for key, item in items:
        found = first_unfit(item, f"{path}.{key}" if path else str(key))
        if found:
            return found
    return None
