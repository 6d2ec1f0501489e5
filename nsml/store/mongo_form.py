"""A body as MongoDB keeps it, and back: no key of people's own steers the server, or is refused by it."""

from __future__ import annotations

import re
from typing import Any

from nsml.core.errors import BadInput

LARGEST = (1 << 63) - 1  # of a whole number
_UNSAFE = re.compile(r"[%.\x00]|^\$|^$")
_ESCAPED = re.compile(r"%([0-9A-F]{2}|_)")


def stored(value: Any, what: str) -> Any:
    """*value* with keys that every server takes. Raises `BadInput` for what JSON cannot hold."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        if -LARGEST <= value <= LARGEST:
            return value
        raise BadInput(f"{what} cannot be stored: a whole number in it has more than 64 bits.")
    if kind is float:
        if value - value == 0.0:
            return value
        raise BadInput(f"{what} cannot be stored: a number in it is not finite.")
    if kind is dict:
        return {_escaped(key): stored(item, what) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [stored(item, what) for item in value]
    raise BadInput(f"{what} cannot be stored: {kind.__name__} has no plain form.")


def loaded(value: Any) -> Any:
    """What `stored` made *value* from."""
    if type(value) is dict:
        return {_unescaped(key): loaded(item) for key, item in value.items()}
    if type(value) is list:
        return [loaded(item) for item in value]
    return int(value) if isinstance(value, int) and type(value) is not bool else value


def _escaped(key: str) -> str:
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}" if found[0] else "%_", key)


def _unescaped(key: str) -> str:
    if "%" not in key:
        return key
    return _ESCAPED.sub(lambda found: "" if found[1] == "_" else chr(int(found[1], 16)), key)
