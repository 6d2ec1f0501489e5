"""Values as people read them: tables, sizes, relative times, numbers; all of it safe on a terminal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from nsml.core.ids import printable
from nsml.core.resources import size as _size

Cell = Callable[[Mapping[str, Any]], str]
GAP = "  "
EMPTY = "-"
NARROWEST = 8  # a column is not cut below this many characters
WHOLE = ("Status",)  # columns that are not cut at all, beside the first (the name)
WIDEST = 200  # characters of a cell, even where the table may be as wide as it likes


def width() -> int:
    """Columns of the terminal; `$COLUMNS` overrides."""
    return shutil.get_terminal_size((100, 30)).columns


def cell(value: Any) -> str:
    """*value* on one line without control characters or runs of spaces; `-` for nothing."""
    text = printable(" ".join(str(value).split())) if value is not None else ""
    return text or EMPTY


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], most: int | None = None) -> list[str]:
    """A header, a line of dashes and the rows, columns two spaces apart; cut to *most* columns if given."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [
        max([columns(header), *(columns(row[at]) for row in cells)]) for at, header in enumerate(headers)
    ]
    if most is not None:
        widths = _squeezed(widths, most, [at for at, name in enumerate(headers) if at and name not in WHOLE])
    lines = [headers, ["-" * wide for wide in widths], *cells]
    return [_line(line, widths) for line in lines]


def csv_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """*rows* as comma-separated values for other programs: the fields of the JSON, nothing rounded."""
    import csv
    import io

    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([names] if names else [])
    writer.writerows([[_plain(row.get(name)) for name in names] for row in rows])
    return text.getvalue().splitlines()


def yaml_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """*rows* as YAML: a block for each, its values as JSON, which YAML understands."""
    import json

    lines = []
    for row in rows:
        told = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in row.items()]
        lines += [f"{'  ' if at else '- '}{line}" for at, line in enumerate(told)]
    return lines or ["[]"]


def _plain(value: Any) -> str:
    if isinstance(value, dict | list | bool):
        import json

        return json.dumps(value)
    return " ".join(printable(str(value)).splitlines()) if value is not None else ""


def fields(pairs: Mapping[str, Any]) -> list[str]:
    """Names and values below each other."""
    wide = max(columns(name) for name in pairs)
    return [f"{name.ljust(wide)}{GAP}{cell(value)}" for name, value in pairs.items()]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(_padded(fit(text, wide), wide) for text, wide in zip(cells, widths, strict=True)).rstrip()


def _squeezed(widths: list[int], most: int, which: Sequence[int]) -> list[int]:
    """*widths* with the widest of the columns *which* cut until they fit."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > most:
        at = max(which, key=lambda i: widths[i], default=None)
        if at is None or widths[at] <= NARROWEST:
            break
        widths[at] -= 1
    return widths


def fit(text: str, wide: int) -> str:
    """*text* cut to *wide* terminal columns, with `…` where something is missing."""
    if columns(text) <= wide:
        return text
    used = 0
    for at, letter in enumerate(text):
        used += columns(letter)
        if used > wide - 1:
            return text[:at] + "…"
    return text


def _padded(text: str, wide: int) -> str:
    return text + " " * (wide - columns(text))


def columns(text: str) -> int:
    """How many terminal columns *text* takes: wide letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


# -- numbers and sizes -------------------------------------------------------------------------------
def number(value: Any) -> str:
    """A number with at most three decimals and no trailing zeros; very small ones keep three digits."""
    if not isinstance(value, float):
        return printable(str(value))
    if value and (abs(value) < 0.001 or abs(value) >= 1e15):
        return f"{value:.3g}"
    return f"{value:.3f}".rstrip("0").rstrip(".")


def size(value: Any) -> str:
    return _size(int(value)) if isinstance(value, int | float) else EMPTY


def count(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def summary(values: Mapping[str, Any] | None, otherwise: str = "Not created yet", full: bool = False) -> str:
    """`k=v, k=v` of the last report; cut to three decimals unless *full*."""
    if not values:
        return otherwise
    show = _exact if full else number
    return ", ".join(f"{key}={show(value)}" for key, value in values.items())


def _exact(value: Any) -> str:
    """*value* with all its digits; a whole number without `.0`."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value)) if is_whole else str(value)


# -- times -------------------------------------------------------------------------------------------
UNITS = (
    ("year", 31_536_000),
    ("month", 2_592_000),
    ("day", 86_400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def ago(iso: Any, now: float | None = None) -> str:
    """`just now`, `36 minutes ago`, `2 months ago` of a time in ISO 8601."""
    moment = epoch(iso)
    if moment is None:
        return EMPTY
    seconds = (time.time() if now is None else now) - moment
    if seconds < 2:
        return "just now"
    for unit, length in UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def epoch(iso: Any) -> float | None:
    """Seconds since 1970 of a time in ISO 8601 (or of such seconds); None for nothing."""
    if isinstance(iso, int | float):
        return float(iso)
    try:
        return datetime.fromisoformat(str(iso)).timestamp() if iso else None
    except ValueError:
        return None


def duration(seconds: Any) -> str:
    """`4 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if not isinstance(seconds, int | float):
        return EMPTY
    if seconds < 10:
        return f"{number(round(float(seconds), 1))} s"
    parts = list(_parts(int(seconds)))
    return " ".join(parts[:2])


def _parts(seconds: int) -> Iterator[str]:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            yield f"{count} {unit}"
