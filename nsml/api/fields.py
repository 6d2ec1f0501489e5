"""What came in a request, checked: a JSON object's fields and a query's parameters, each of its own kind."""

from __future__ import annotations

import asyncio
import difflib
import math
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from nsml.core.errors import BadInput, TooLarge
from nsml.core.ids import printable

MISSING = object()
WHOLE_MOST = 1 << 62  # beyond, the store's numbers end
BODY_SECONDS = 30.0  # for a JSON body to arrive; a slower sender is broken or means harm


class Fields:
    """A JSON object that is taken apart field by field; `done` refuses what nobody took."""

    def __init__(self, data: object, what: str = "The body") -> None:
        if not isinstance(data, dict):
            raise BadInput(f"{what} must be a JSON object.")
        self._data: Mapping[str, Any] = data
        self._what = what
        self._taken: set[str] = set()

    def raw(self, name: str, default: Any = MISSING) -> Any:
        """The field as it came; `BadInput` when it is missing and has no default."""
        self._taken.add(name)
        value = self._data.get(name, MISSING)
        if value is None and default is not MISSING:
            return default
        if value is not MISSING:
            return value
        if default is MISSING:
            raise BadInput(f"{self._what} lacks '{name}'.")
        return default

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def text(self, name: str, default: Any = MISSING, most: int = 256) -> str:
        """Text kept as typed, of at most *most* characters."""
        return self._text(name, self.raw(name, default), most)

    def line(self, name: str, default: Any = MISSING, most: int = 256) -> str:
        """Text without control characters: a name, a path."""
        value = self.text(name, default, most)
        if not value.isprintable():
            raise BadInput(f"'{name}' has control characters: {printable(value)[:80]!r}.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name, default)
        if isinstance(value, bool):
            return value
        raise BadInput(f"'{name}' must be true or false.")

    def whole(self, name: str, default: Any = MISSING, *, low: int = 0, high: int = WHOLE_MOST) -> int:
        """A whole number between *low* and *high*."""
        value = self.raw(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise BadInput(f"'{name}' must be a whole number from {low} to {high}.")

    def number(self, name: str, default: Any = MISSING, *, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number between *low* and *high*."""
        value = self.raw(name, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value) and low <= value <= high:
            return float(value)
        raise BadInput(f"'{name}' must be a number from {low:g} to {high:g}.")

    def texts(
        self, name: str, default: Any = MISSING, *, most: int = 100, each: int = 256
    ) -> tuple[str, ...]:
        """A list of at most *most* texts."""
        value = self.raw(name, default)
        if not isinstance(value, (list, tuple)):
            raise BadInput(f"'{name}' must be a list of texts.")
        if len(value) > most:
            raise TooLarge(f"'{name}' has {len(value)} items, {most} are taken.")
        return tuple(self._text(name, item, each) for item in value)

    def pairs(self, name: str, *, most: int = 1000, each: int = 128 << 10) -> tuple[tuple[str, str], ...]:
        """An object of texts, in the order in which it came."""
        value = self.raw(name, {})
        if not isinstance(value, dict):
            raise BadInput(f"'{name}' must be an object of texts.")
        if len(value) > most:
            raise TooLarge(f"'{name}' has {len(value)} entries, {most} are taken.")
        return tuple((key, self._text(f"{name}.{key[:80]}", item, each)) for key, item in value.items())

    def fields(self, name: str) -> Fields:
        """A nested object; an empty one when it is missing."""
        return Fields(self.raw(name, {}), f"'{name}'")

    def done(self) -> None:
        """Refuse what nobody took: a misspelt field must not be lost in silence."""
        for name in self._data:
            if name not in self._taken:
                near = difflib.get_close_matches(name, self._taken, n=1)
                known = f"Known are: {', '.join(sorted(self._taken))}."
                hint = f"Did you mean '{near[0]}'?" if near else known
                raise BadInput(
                    f"{self._what} has '{printable(name)[:80]}', which is not known here.", hint=hint
                )

    def _text(self, name: str, value: object, most: int) -> str:
        name = printable(name)
        if not isinstance(value, str):
            raise BadInput(f"'{name}' must be a text.")
        if len(value) > most:
            raise TooLarge(f"'{name}' has {len(value)} characters, {most} are taken.")
        return value


async def read_json(request: web.Request) -> Fields:
    """The body as JSON fields. Raises `BadInput` (NaN, endless depth), `TooLarge`, TimeoutError."""
    refuse_encoded(request)
    async with asyncio.timeout(BODY_SECONDS):
        body = await request.read()  # held to the application's `client_max_size`
    try:
        return Fields(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise BadInput(f"The body is not JSON: {error.msg[:200]}.") from error


def refuse_encoded(request: web.Request) -> None:
    """A body that unpacks itself may be a bomb; nothing here needs one."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise BadInput(
            f"A body encoded as {printable(encoding)[:40]!r} is not taken.", hint="Send it as it is."
        )


def asked_whole(request: web.Request, name: str, default: int, *, high: int = WHOLE_MOST) -> int:
    """A whole number of the query, 0 to *high*."""
    text = request.query.get(name, "")
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= high:
        return int(text)
    raise BadInput(f"'{name}' must be a whole number from 0 to {high}, not {printable(text)[:40]!r}.")


def asked_number(request: web.Request, name: str) -> float | None:
    """A finite number of the query; None when it is not there."""
    text = request.query.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    raise BadInput(f"'{name}' must be a number, not {printable(text)[:40]!r}.")


def asked_flag(request: web.Request, name: str) -> bool:
    """Whether the query says `name=1` (or true, yes)."""
    text = request.query.get(name, "").lower()
    if text in ("", "0", "false", "no"):
        return False
    if text in ("1", "true", "yes"):
        return True
    raise BadInput(f"'{name}' must be 1 or 0, not {printable(text)[:40]!r}.")


def asked_line(request: web.Request, name: str, most: int = 256) -> str:
    """A text of the query, without control characters."""
    text = request.query.get(name, "")
    if len(text) > most:
        raise TooLarge(f"'{name}' has {len(text)} characters, {most} are taken.")
    if not text.isprintable():
        raise BadInput(f"'{name}' has control characters: {printable(text)[:80]!r}.")
    return text
