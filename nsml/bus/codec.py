"""Envelopes to bytes and back: JSON, checked once, at the border."""

from __future__ import annotations

import orjson

from nsml.core.errors import BadInput
from nsml.core.messages import Envelope
from nsml.core.wire import Undecodable, first_unfit, read, written

__all__ = ["Undecodable", "decode", "encode"]


def encode(envelope: Envelope) -> bytes:
    """*envelope* as JSON. Raises `BadInput` for what JSON has no form for (NaN, lone surrogates)."""
    data = written(envelope)
    unfit = first_unfit(data)
    if unfit:
        raise BadInput(f"A {envelope.name} cannot be sent: {unfit} is not a finite number.")
    try:
        return orjson.dumps(data)
    except (TypeError, ValueError) as error:
        raise BadInput(f"A {envelope.name} cannot be sent: {error}.") from error


def decode(data: bytes) -> Envelope:
    """The envelope in *data*. Raises `Undecodable`; never anything else, whatever the bytes."""
    try:
        return read(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise Undecodable(f"A message is JSON: {error}.") from error
