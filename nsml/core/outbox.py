"""What a session's outbox says: the bytes that `nsml.sdk.outbox` wrote, read back as records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from math import inf, isfinite, nan
from typing import Any, NamedTuple, TypedDict

NOTE, ROW = 1, 2  # the kinds of record
LARGEST = 64 << 20  # bytes of one record: a hundred times what any honest report needs
SUMMARY = 1  # flag of a row

Value = float | str | list[float]
Names = Mapping[int, tuple[str, ...]]

_HEADER = struct.Struct("<IB")
_SPECIAL = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}
_WHOLE = 1 << 53  # below, a float tells every integer
_EXACT = 1 << 63  # larger integers have no place in JSON that others read


class Report(NamedTuple):
    """One call of `nsml.report`: *values* by name, at the x position *step* (None: it counts by itself)."""

    at: float
    step: float | None
    values: tuple[tuple[str, Value], ...]
    summary: bool


class Save(NamedTuple):
    """A checkpoint lies finished in the folder *path* of the spool."""

    checkpoint: str
    path: str
    at: float


class Load(NamedTuple):
    """User code waits for a checkpoint; the answer goes to `inbox/REQUEST.json`."""

    request: str
    session: str
    checkpoint: str | None


class Other(NamedTuple):
    """Any other note (`paused`, `bound`, …); what cannot be understood has the op `""`."""

    op: str
    data: Mapping[str, Any]


class Series(TypedDict):
    """One curve: a value for each step, with the time it was reported."""

    name: str
    steps: list[float]
    values: list[float]
    times: list[float]


Record = Report | Save | Load | Other


def read(data: bytes, names: Names) -> tuple[list[Record], int, dict[int, tuple[str, ...]]]:
    """The records of *data*, how many of its bytes they take, and the row layouts known after them.

    A record that is not there in full is left for later, and zeros end the data: the file is larger than
    what was written. Raises ValueError where no record can begin.
    """
    known = dict(names)
    rows = {schema: _row(layout) for schema, layout in known.items()}
    records: list[Record] = []
    at, size = 0, len(data)
    while at + 5 <= size:
        length, kind = _HEADER.unpack_from(data, at)
        if length == 0 or kind == 0:  # the writer sets the kind last
            break
        if kind not in (NOTE, ROW) or length > LARGEST:
            raise ValueError(f"no record begins at byte {at}: kind {kind}, {length} bytes")
        end = at + 5 + length
        if end > size:
            break
        if kind == ROW:
            records.append(_report(data, at + 5, length, known, rows))
        else:
            _note(data[at + 5 : end], records, known, rows)
        at = end
    return records, at, known


def series(records: Iterable[Record]) -> list[Series]:
    """Every number reported, as one curve for each name, in the order in which the names appeared.

    A report without a step stands at its own place in the session, the first at 1.
    """
    curves: dict[str, Series] = {}
    count = 0
    for record in records:
        if not isinstance(record, Report):
            continue
        count += 1
        step = count if record.step is None else record.step
        step = int(step) if abs(step) < _WHOLE and step == int(step) else step
        for name, value in record.values:
            if isinstance(value, (str, list)):
                continue
            curve = curves.get(name)
            if curve is None:
                curve = curves[name] = Series(name=name, steps=[], values=[], times=[])
            curve["steps"].append(step)
            curve["values"].append(value)
            curve["times"].append(record.at)
    return list(curves.values())


def _row(layout: tuple[str, ...]) -> struct.Struct:
    return struct.Struct(f"<IBdd{len(layout)}d")


def _report(data: bytes, at: int, length: int, known: Names, rows: dict[int, struct.Struct]) -> Record:
    schema = int.from_bytes(data[at : at + 4], "little")
    row = rows.get(schema)
    if row is None or row.size != length:
        return Other("", {"row": schema})
    _, flags, time, step, *values = row.unpack_from(data, at)
    return Report(
        time,
        step if isfinite(step) else None,
        tuple(zip(known[schema], values, strict=True)),
        bool(flags & SUMMARY),
    )


def _note(
    payload: bytes, records: list[Record], known: dict[int, tuple[str, ...]], rows: dict[int, struct.Struct]
) -> None:
    """Append what a note says; the layout of rows to come is kept in *known* and *rows* instead."""
    try:
        note = json.loads(payload)
        if note["op"] == "names":
            schema, layout = int(note["id"]), tuple(_text(name) for name in note["names"])
            known[schema], rows[schema] = layout, _row(layout)
        else:
            records.append(_meant(note))
    except (ValueError, KeyError, TypeError, RecursionError):  # user code may write here, too
        records.append(Other("", {}))


def _meant(note: Any) -> Record:
    match note["op"]:
        case "report":
            step = None if note.get("step") is None else _number(note["step"])
            values = tuple((_text(name), _value(value)) for name, value in note["values"].items())
            at_step = step if step is not None and isfinite(step) else None
            return Report(float(note["at"]), at_step, values, bool(note.get("summary")))
        case "save":
            return Save(_text(note["checkpoint"]), _text(note["path"]), float(note["at"]))
        case "load":
            wanted = note.get("checkpoint")
            return Load(
                _text(note["request"]), _text(note["session"]), None if wanted is None else _text(wanted)
            )
        case op:
            return Other(_text(op), note)


def _text(value: Any) -> str:
    """*value*, which must be a str, without the lone surrogates that no UTF-8 text can hold."""
    if not isinstance(value, str):
        raise TypeError(f"text was expected, not {type(value).__name__}")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _value(value: Any) -> Value:
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str) and value not in _SPECIAL:
        return _text(value)
    return _number(value)


def _number(value: Any) -> float:
    if isinstance(value, str):
        return _SPECIAL[value]
    if isinstance(value, int) and not -_EXACT <= value < _EXACT:
        return float(value) if -(1 << 1023) < value < 1 << 1023 else inf if value > 0 else -inf
    if isinstance(value, (int, float)):
        return value
    raise TypeError(f"a number was expected, not {type(value).__name__}")
