"""A session's log: its attempts' streams in order, read from any place, with what was stderr told apart."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nsml.core.ids import stream_id
from nsml.core.ports import Streams
from nsml.core.session import Session

BLOCK = 256 << 10  # bytes read at once; what one reader costs in memory
BACK = 64 << 10  # bytes read at once on the way back from the end
RANGE = struct.Struct("<QQ")  # of log.err: from, to
STAMP = struct.Struct("<Qd")  # of log.at: offset, seconds since 1970; at most one a second
STAMP_EVERY = 1.0
RED, PLAIN = b"\x1b[31m", b"\x1b[0m"
STREAMS = ("", "stdout", "stderr")
Test = Callable[[tuple[Any, ...]], bool]


@dataclass(frozen=True, slots=True)
class Part:
    """One attempt's log, as long as it is now."""

    name: str
    size: int

    def beside(self, kind: str) -> str:
        """The stream of another kind that belongs to this one."""
        return kind + self.name.removeprefix("log")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a session's log: which part, and where in it."""

    part: int
    offset: int


@dataclass(frozen=True, slots=True)
class Look:
    """How a log is shown: all of it or one of both streams, stderr in red or not."""

    stream: str = ""
    color: bool = False

    @property
    def is_plain(self) -> bool:
        return not self.stream and not self.color


async def parts(streams: Streams, session: Session, rank: int = 0, first: int = 0) -> list[Part]:
    """The attempts' logs; those before *first* are passed over with size 0, they are not asked for again."""
    names = [stream_id("log", session.id, attempt, rank) for attempt in range(1, session.attempt + 1)]
    return [Part(name, await streams.size(name) if at >= first else 0) for at, name in enumerate(names)]


def position(found: Sequence[Part], place: Place) -> int:
    """How many bytes of the whole log are before *place*."""
    return sum(part.size for part in found[: place.part]) + place.offset


def place_of(found: Sequence[Part], offset: int) -> Place:
    """Where the byte *offset* of the whole log is; the end when there is none."""
    for at, part in enumerate(found):
        if offset < part.size:
            return Place(at, offset)
        offset -= part.size
    return ending(found)


def ending(found: Sequence[Part]) -> Place:
    return Place(len(found) - 1, found[-1].size) if found else Place(0, 0)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of one kind; `opens` and `closes` a range of stderr where the range itself begins and ends."""

    offset: int
    data: bytes
    is_error: bool = False
    opens: bool = False
    closes: bool = False


async def shown(
    streams: Streams, part: Part, offset: int, look: Look, first: bool = True
) -> AsyncIterator[bytes]:
    """The bytes of *part* from *offset* as they are to be shown, in blocks; *first* when nothing was shown
    before them. Where blocks are cut does not show, so that who comes again can skip what it has."""
    errors = _Ranges(streams, part.beside("log.err"))
    while offset < part.size:
        data = await streams.read(part.name, offset, min(BLOCK, part.size - offset))
        if not data:
            return
        if look.is_plain:
            yield data
        else:
            pieces = _split(data, offset, await errors.within(offset, offset + len(data)))
            yield b"".join(
                _styled(p, look, first and p.offset == offset) for p in pieces if _is_wanted(p, look)
            )
        offset, first = offset + len(data), False


def _is_wanted(piece: _Piece, look: Look) -> bool:
    return not look.stream or piece.is_error == (look.stream == "stderr")


def _styled(piece: _Piece, look: Look, first: bool) -> bytes:
    if not (piece.is_error and look.color):
        return piece.data
    return (RED if piece.opens or first else b"") + piece.data + (PLAIN if piece.closes else b"")


def _split(data: bytes, start: int, ranges: Sequence[tuple[int, int]]) -> list[_Piece]:
    """*data*, which begins at *start*, in pieces that are stderr or not, in order."""
    made, at, stop = [], start, start + len(data)
    for low, high in ranges:
        begin, end = max(low, at), min(high, stop)
        if begin >= end:
            continue
        if at < begin:
            made.append(_Piece(at, data[at - start : begin - start]))
        made.append(_Piece(begin, data[begin - start : end - start], True, begin == low, end == high))
        at = end
    if at < stop:
        made.append(_Piece(at, data[at - start :]))
    return made


class _Ranges:
    """The stderr ranges of one log; found by halving, so that a log of millions of them costs no memory."""

    def __init__(self, streams: Streams, name: str) -> None:
        self._streams = streams
        self._name = name

    async def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Those that touch the bytes from *start* to *stop*."""
        count = await self._streams.size(self._name) // RANGE.size
        at = await _first(self._streams, self._name, RANGE, count, lambda found: int(found[1]) > start)
        made: list[tuple[int, int]] = []
        while at < count:
            data = await self._streams.read(self._name, at * RANGE.size, BACK)
            whole = len(data) // RANGE.size
            for low, high in RANGE.iter_unpack(data[: whole * RANGE.size]):
                if low >= stop:
                    return made
                made.append((low, high))
            if not whole:
                return made
            at += whole
        return made


async def _first(streams: Streams, name: str, form: struct.Struct, count: int, test: Test) -> int:
    """The index of the first of *count* sorted records that passes *test*; *count* when none does."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        data = await streams.read(name, middle * form.size, form.size)
        if len(data) == form.size and not test(form.unpack(data)):
            low = middle + 1
        else:
            high = middle
    return low


async def tail(streams: Streams, found: Sequence[Part], lines: int, look: Look) -> Place:
    """Where the last *lines* lines begin; read from the end, so it costs what is shown, not what there is."""
    if lines <= 0:
        return ending(found)
    left, last = lines, True
    for at in range(len(found) - 1, -1, -1):
        part = found[at]
        errors, stop = _Ranges(streams, part.beside("log.err")), part.size
        while stop > 0:
            start = max(0, stop - BACK)
            data = await streams.read(part.name, start, stop - start)
            ranges = [] if not look.stream else await errors.within(start, stop)
            for piece in reversed(_split(data, start, ranges)):
                if not _is_wanted(piece, look):
                    continue
                here, left = _back(piece.data, left, last)
                last = False
                if here >= 0:
                    return Place(at, piece.offset + here)
            stop = start
    return Place(0, 0)


def _back(piece: bytes, left: int, last: bool) -> tuple[int, int]:
    """(where the wanted line begins in *piece* or -1, newlines still to find); the *last* one ends a line."""
    at = len(piece) - 1 if last and piece.endswith(b"\n") else len(piece)
    while left:
        at = piece.rfind(b"\n", 0, at)
        if at < 0:
            return -1, left
        left -= 1
    return at + 1, 0


async def since(streams: Streams, found: Sequence[Part], at: float, ended: float) -> Place:
    """Where what was written at or after the time *at* begins, to the second, at the start of a line."""
    for number, part in enumerate(found):
        offset = await _since(streams, part, at)
        if offset is None and number == len(found) - 1 and not await streams.size(part.beside("log.at")):
            offset = 0 if part.size and not 0 < ended < at else None
        if offset is not None and offset < part.size:
            return Place(number, await _line_start(streams, part, offset))
    return ending(found)


async def _since(streams: Streams, part: Part, at: float) -> int | None:
    """The offset in one part, by its time index; None when all of it is older."""
    name = part.beside("log.at")
    count = await streams.size(name) // STAMP.size
    index = await _first(streams, name, STAMP, count, lambda found: float(found[1]) >= at)
    if index:
        offset, stamp = STAMP.unpack(await streams.read(name, (index - 1) * STAMP.size, STAMP.size))
        if at < stamp + STAMP_EVERY:
            return int(offset)
    if index == count:
        return None
    return int(STAMP.unpack(await streams.read(name, index * STAMP.size, STAMP.size))[0])


async def _line_start(streams: Streams, part: Part, offset: int) -> int:
    start = max(0, offset - BACK)
    data = await streams.read(part.name, start, offset - start)
    newline = data.rfind(b"\n")
    if newline >= 0:
        return start + newline + 1
    return 0 if not start else offset
