"""Answers without a known end: a session's log as bytes, a session's life as server-sent events."""

from __future__ import annotations

import asyncio
import codecs
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from aiohttp import web

from nsml.api import logs, queries
from nsml.api.desk import Desk
from nsml.api.failures import STREAMING
from nsml.api.live import Bell
from nsml.api.logs import Look, Place
from nsml.core.ids import stream_id
from nsml.core.session import SESSION, Session, State
from nsml.core.summary import SUMMARY

QUIET = 10.0  # seconds without a word: then one is sent, so that a dead connection is noticed
LOOK_AGAIN = 1.0  # seconds until the state is read again though no bell rang: a message may have been dropped
SOON = 0.02  # a message came before its bytes were recorded: they are there in a moment
HOLD = (
    0.6  # seconds until it is known which of a log's bytes were stderr: they are told in a batch of their own
)
PATIENCE = 30.0  # seconds to wait for bytes that were promised; then the log is as complete as it gets


class Outflow:
    """An answer that is written piece by piece. A reader who takes nothing for long is cut off: what waits
    for it is one piece, never a queue."""

    def __init__(self, request: web.Request, seconds: float, headers: Mapping[str, str]) -> None:
        self._request = request
        self._seconds = seconds
        self.response = web.StreamResponse(headers=headers)

    async def begin(self) -> None:
        await self.response.prepare(self._request)
        self._request[STREAMING] = True

    async def write(self, data: bytes) -> None:
        """Raises ConnectionError when the reader left or takes nothing."""
        if self.is_gone:
            raise ConnectionResetError("the reader left")
        try:
            async with asyncio.timeout(self._seconds):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the reader is too slow") from None

    async def tell(self, event: str, data: Any) -> None:
        """One server-sent event."""
        await self.write(b"event: " + event.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n")

    @property
    def is_gone(self) -> bool:
        return self._request.transport is None or self._request.transport.is_closing()


# -- logs ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a log is wanted: from which byte, the last so many lines, what is newer than a time."""

    look: Look
    rank: int = 0
    offset: int = 0
    lines: int | None = None
    since: float | None = None


async def send_log(
    request: web.Request, desk: Desk, session: Session, wanted: Wanted, follow: bool
) -> web.StreamResponse:
    """A log from where it is wanted; with *follow* until the session ended and all of it was sent."""
    found = await logs.parts(desk.streams, session, wanted.rank)
    start, look = await _start(desk, session, found, wanted), wanted.look
    headers = {
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
        "X-Log-Size": str(sum(part.size for part in found)),
        "X-Log-Offset": str(logs.position(found, start)),
    }
    out = Outflow(request, desk.doors.chunk, headers)
    await out.begin()
    if follow:
        await _Follower(desk, out, session.id, look, wanted.rank).run(start)
    else:
        for number, part in enumerate(found[start.part :], start.part):
            offset = start.offset if number == start.part else 0
            async for data in logs.shown(desk.streams, part, offset, look):
                await out.write(data)
    await out.response.write_eof()
    return out.response


async def _start(desk: Desk, session: Session, found: Sequence[logs.Part], wanted: Wanted) -> Place:
    """Where to begin; of several wishes the latest place wins."""
    if not found:
        return Place(0, 0)
    places = [logs.place_of(found, wanted.offset)]
    if wanted.lines is not None:
        places.append(await logs.tail(desk.streams, found, wanted.lines, wanted.look))
    if wanted.since is not None:
        places.append(await logs.since(desk.streams, found, wanted.since, session.ended))
    return max(places, key=lambda place: (place.part, place.offset))


class _Follower:
    """Sends a log as it grows, attempt after attempt."""

    def __init__(self, desk: Desk, out: Outflow, session: str, look: Look, rank: int) -> None:
        self._desk, self._out, self._session, self._look, self._rank = desk, out, session, look, rank
        self._first = True
        self._sizes: deque[tuple[float, Place]] = deque()

    async def run(self, place: Place) -> None:
        moved = self._desk.clock.monotonic()
        with self._desk.live.watch(self._session) as bell:
            while session := await _still_there(self._desk, self._session):
                found = await logs.parts(self._desk.streams, session, self._rank, place.part)
                before, place = place, await self._send(session, found, place)
                now = self._desk.clock.monotonic()
                moved = now if place != before else moved
                late = now - moved > PATIENCE
                if place.part < len(found) - 1:
                    if late or await self._is_sent(session, found, place):
                        place = Place(place.part + 1, 0)
                        continue
                elif session.is_ended and (late or await self._is_sent(session, found, place)):
                    return
                await self._wait(bell, session, found, place)

    async def _send(self, session: Session, found: list[logs.Part], place: Place) -> Place:
        if place.part >= len(found):
            return place
        part = found[place.part]
        if not self._look.is_plain and not await self._is_known(session, found, place.part):
            part = replace(part, size=self._aged(Place(place.part, part.size)))
        async for data in logs.shown(self._desk.streams, part, place.offset, self._look, self._first):
            await self._out.write(data)
            self._first = False
        return Place(place.part, max(place.offset, part.size))

    def _aged(self, reached: Place) -> int:
        """How long this log was a moment ago: what of it was stderr is known only shortly after the bytes."""
        now = self._desk.clock.monotonic()
        self._sizes.append((now, reached))
        aged = 0
        while self._sizes and self._sizes[0][0] <= now - HOLD:
            at = self._sizes[0][1]
            aged = at.offset if at.part == reached.part else 0
            if len(self._sizes) > 1 and self._sizes[1][0] > now - HOLD:
                break
            self._sizes.popleft()
        return aged

    async def _is_known(self, session: Session, found: list[logs.Part], number: int) -> bool:
        """Whether all is recorded that says what of this part was stderr."""
        if number == len(found) - 1 and not session.is_ended:
            return False
        ranges = found[number].beside("log.err")
        return _is_whole(session, ranges, await self._desk.streams.size(ranges))

    async def _is_sent(self, session: Session, found: list[logs.Part], place: Place) -> bool:
        if not found:
            return True
        part = found[place.part]
        known = self._look.is_plain or await self._is_known(session, found, place.part)
        return known and place.offset >= part.size and _is_whole(session, part.name, place.offset)

    async def _wait(self, bell: Bell, session: Session, found: list[logs.Part], place: Place) -> None:
        if self._out.is_gone:
            raise ConnectionResetError("the reader left")
        part = found[place.part] if found else logs.Part("", 0)
        if bell.grown.get(part.name, 0) > part.size or session.is_ended:
            await self._desk.clock.sleep(SOON)
        else:
            await bell.within(HOLD if place.offset < part.size else LOOK_AGAIN)


def _is_whole(session: Session, stream: str, size: int) -> bool:
    """Whether *size* bytes are all that the node said *stream* has; a lost node said nothing."""
    return size >= dict(session.streams).get(stream, 0)


async def _still_there(desk: Desk, name: str) -> Session | None:
    document = await desk.store.load(SESSION.key(name))
    session = document.value(SESSION) if document else None
    return None if session is None or session.state is State.REMOVED else session


# -- a session's life ------------------------------------------------------------------------------
async def send_life(request: web.Request, desk: Desk, session: Session) -> web.StreamResponse:
    """The session's row at each change, what its environment's build says, and the end."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    out = Outflow(request, desk.doors.chunk, headers)
    await out.begin()
    await _Life(desk, out, session.id).run()
    await out.response.write_eof()
    return out.response


class _Life:
    """What was told of a session so far, and what is to be told next."""

    def __init__(self, desk: Desk, out: Outflow, session: str) -> None:
        self._desk, self._out, self._session = desk, out, session
        self._seen: tuple[int, ...] = ()
        self._told: tuple[object, ...] = ()
        self._builds: dict[int, _Build] = {}
        self._spoke = desk.clock.monotonic()

    async def run(self) -> None:
        ended = math.inf
        with self._desk.live.watch(self._session) as bell:
            while True:
                document = await self._desk.store.load(SESSION.key(self._session))
                session = document.value(SESSION) if document else None
                if document is None or session is None or session.state is State.REMOVED:
                    return await self._tell_removed(session)
                await self._tell_builds(session)
                await self._tell_row(session, document.version)
                now = self._desk.clock.monotonic()
                ended = min(ended, now) if session.is_ended else math.inf
                if session.is_ended and (now - ended > PATIENCE or await self._is_recorded(session)):
                    await self._tell_builds(session)
                    return await self._out.tell("end", await self._row(session))
                await self._wait(bell, session)

    async def _row(self, session: Session) -> dict[str, Any]:
        return await queries.one_row(self._desk.store, session, self._desk.clock.now())

    async def _tell_row(self, session: Session, version: int) -> None:
        """Tell the row when anything in it changed but the seconds that pass. Whether anything can have is
        seen by the versions of what it is made of: to look at those is cheap, to make a row is not."""
        line = await self._version("queue/main") if session.state is State.QUEUED else 0
        seen = (version, await self._version(SUMMARY.key(session.id)), line)
        if seen == self._seen:
            return
        self._seen, row = seen, await self._row(session)
        now = tuple(value for name, value in row.items() if name not in ("wait_seconds", "run_seconds"))
        if now != self._told:
            self._told = now
            await self._speak("session", row)

    async def _version(self, key: str) -> int:
        document = await self._desk.store.load(key)
        return document.version if document else 0

    async def _tell_builds(self, session: Session) -> None:
        if not session.attempt:
            return
        build = self._builds.setdefault(session.attempt, _Build(self._session, session.attempt))
        while text := await build.more(self._desk):
            await self._speak("build", {"text": text, "attempt": session.attempt})

    async def _tell_removed(self, gone: Session | None) -> None:
        last = {
            "session": self._session,
            "status": "removed",
            "reason": (gone.reason if gone else "") or None,
        }
        await self._out.tell("session", last)
        await self._out.tell("end", last)

    async def _speak(self, event: str, data: Any) -> None:
        await self._out.tell(event, data)
        self._spoke = self._desk.clock.monotonic()

    async def _is_recorded(self, session: Session) -> bool:
        for stream, size in session.streams:
            if await self._desk.streams.size(stream) < size:
                return False
        return True

    async def _wait(self, bell: Bell, session: Session) -> None:
        if self._out.is_gone:
            raise ConnectionResetError("the reader left")
        if self._desk.clock.monotonic() - self._spoke > QUIET:
            await self._out.write(b": still here\n\n")
            self._spoke = self._desk.clock.monotonic()
        if session.is_ended or any(bell.grown.get(b.stream, 0) > b.offset for b in self._builds.values()):
            await self._desk.clock.sleep(SOON)
        else:
            await bell.within(LOOK_AGAIN)


class _Build:
    """How much of one attempt's build output was told; a character is never cut in two."""

    def __init__(self, session: str, attempt: int) -> None:
        self.stream = stream_id("build", session, attempt)
        self.offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def more(self, desk: Desk) -> str:
        """What came since; empty when nothing did."""
        while data := await desk.streams.read(self.stream, self.offset, logs.BLOCK):
            self.offset += len(data)
            if text := self._decoder.decode(data):
                return text
        return ""
