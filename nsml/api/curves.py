"""A session's learning curves: its outboxes read once, kept while they fit, continued where they grew."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import struct
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import orjson

from nsml.api.words import odd
from nsml.core import outbox
from nsml.core.ports import Streams

log = logging.getLogger("nsml.api")

BLOCK = 4 << 20  # bytes read at once
IN_PLACE = 64 << 10  # bytes read without a thread: a millisecond or two
MOST_POINTS = 500_000  # kept in all, 24 bytes each
HEADER = struct.Struct("<IB")  # of a record: bytes that follow, kind
PLACE = re.compile(r"(\d+)(?:\.r(\d+))?(?:\.p(\d+))?")


@dataclass(slots=True)
class Curve:
    """The points of one name in one stream; `counted`: where the step is the place in the stream."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    counted: array[int] = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class Parsed:
    """One outbox stream as far as it was read."""

    offset: int = 0
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    reports: int = 0
    points: int = 0
    curves: dict[str, Curve] = field(default_factory=dict)

    def take(self, records: Sequence[outbox.Record]) -> None:
        for record in records:
            if isinstance(record, outbox.Report):
                self.reports += 1
                self._take_report(record)

    def _take_report(self, report: outbox.Report) -> None:
        for name, value in report.values:
            if isinstance(value, (str, list)):
                continue  # a text or a vector is no point of a curve
            curve = self.curves.get(name)
            if curve is None:
                curve = self.curves[name] = Curve()
            if report.step is None:
                curve.counted.append(len(curve.steps))
            curve.steps.append(self.reports if report.step is None else report.step)
            curve.values.append(value)
            curve.times.append(report.at)
            self.points += 1


class Curves:
    """Reads curves out of `Streams`; remembers the streams it read last, `MOST_POINTS` points in all."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._known: OrderedDict[str, Parsed] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def remembered(self) -> int:
        """How many points are kept."""
        return sum(one.points for one in self._known.values())

    async def plot(self, session: str) -> bytes:
        """The JSON of `plot`: every point of every attempt, in order."""
        lock = self._locks.setdefault(session, asyncio.Lock())
        async with lock:
            names = sorted(await self._streams.find(f"outbox/{session}/"), key=_place)
            parsed = [await self._parsed(name) for name in names]
            if sum(one.points for one in parsed) * 24 <= IN_PLACE:
                return _written(session, parsed)
            return await asyncio.to_thread(_written, session, parsed)

    async def _parsed(self, stream: str) -> Parsed:
        size = await self._streams.size(stream)
        parsed = self._known.pop(stream, None)
        if parsed is None or parsed.offset > size:
            parsed = Parsed()
        await self._catch_up(stream, parsed, size)
        self._known[stream] = parsed
        self._forget()
        return parsed

    async def _catch_up(self, stream: str, parsed: Parsed, size: int) -> None:
        block = BLOCK
        while parsed.offset < size:
            data = await self._streams.read(stream, parsed.offset, min(block, size - parsed.offset))
            try:
                if len(data) <= IN_PLACE:
                    taken = _parse(parsed, data)
                else:
                    taken = await asyncio.to_thread(_parse, parsed, data)
            except ValueError as error:
                log.warning("outbox unreadable: %s", error, extra={"stream": stream})
                _parse(parsed, data[: _sound(data)])
                return
            if not taken and len(data) < block:
                return  # the last record is not there in full
            block = BLOCK if taken else min(block * 2, 2 * outbox.LARGEST)
            if not taken and block == 2 * outbox.LARGEST:
                return

    def _forget(self) -> None:
        points = self.remembered
        while self._known and points > MOST_POINTS:
            _, oldest = self._known.popitem(last=False)
            points -= oldest.points


def _parse(parsed: Parsed, data: bytes) -> int:
    records, taken, names = outbox.read(data, parsed.names)
    parsed.take(records)
    parsed.names = names
    parsed.offset += taken
    return taken


def _sound(data: bytes) -> int:
    """How many bytes of *data* are whole records, when after them comes what is none."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if kind not in (outbox.NOTE, outbox.ROW) or end > len(data):
            break
        at = end
    return at


def _place(stream: str) -> tuple[int, ...]:
    """Attempt, rank and child process of `outbox/S/2.r1.p77`, so that the tenth follows the ninth."""
    found = PLACE.fullmatch(stream.rpartition("/")[2])
    return tuple(int(part or 0) for part in found.groups()) if found else (1 << 62,)


def _written(session: str, parsed: Sequence[Parsed]) -> bytes:
    """All streams' curves joined by name; a report without a step stands at its place in the session."""
    joined: dict[str, dict[str, Any]] = {}
    before = 0
    for one in parsed:
        for name, curve in one.curves.items():
            series = joined.setdefault(name, {"name": name, "steps": [], "values": [], "times": []})
            steps = curve.steps
            if before and curve.counted:
                steps = curve.steps[:]
                for index in curve.counted:
                    steps[index] += before
            series["steps"] += [int(step) if step.is_integer() else step for step in steps]
            series["values"] += [value if math.isfinite(value) else odd(value) for value in curve.values]
            series["times"] += curve.times
        before += one.reports
    return orjson.dumps({"session": session, "series": list(joined.values())}, option=orjson.OPT_NON_STR_KEYS)
