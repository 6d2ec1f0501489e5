"""Content in and out by its digest, one by one or many in a pack; counted while it streams, never held whole.

A pack is, for each blob: the raw 32 bytes of its SHA-256, its length as a little-endian u64, its bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from nsml.api.desk import Desk, desk
from nsml.api.failures import reply
from nsml.api.fields import Fields, read_json, refuse_encoded
from nsml.api.stream import Outflow
from nsml.core.errors import BadInput, NotFound, TooLarge
from nsml.core.ids import digest
from nsml.core.ports import Blobs
from nsml.core.resources import size

HEAD = struct.Struct("<32sQ")
SMALL = 256 << 10  # bytes held at once: such a blob is checked before it touches the disk
CHUNK = 256 << 10
HELD = 8 << 20  # bytes of an outgoing blob held to learn its length; a larger one is read twice
MOST_DIGESTS = 100_000  # in one question; a JSON body has room for no more


class Incoming:
    """A request's body, read piece by piece and counted."""

    def __init__(self, request: web.Request, most: int, seconds: float) -> None:
        refuse_encoded(request)
        if (request.content_length or 0) > most:
            raise _too_large(most)
        self._content = request.content
        self._most, self._left, self._seconds = most, most, seconds

    async def some(self, most: int = CHUNK) -> bytes:
        """The next bytes, at most *most*; empty at the end. Raises `TooLarge`, TimeoutError for a pause."""
        async with asyncio.timeout(self._seconds):
            data = await self._content.read(most)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._most)
        return data

    async def everything(self) -> AsyncIterator[bytes]:
        while data := await self.some():
            yield data

    async def exactly(self, count: int) -> bytes:
        """*count* bytes, fewer at the end only."""
        made = bytearray()
        while len(made) < count and (data := await self.some(count - len(made))):
            made += data
        return bytes(made)

    async def part(self, count: int) -> AsyncIterator[bytes]:
        """*count* bytes in pieces. Raises `BadInput` when they are not there."""
        while count:
            data = await self.some(min(CHUNK, count))
            if not data:
                raise _truncated()
            count -= len(data)
            yield data


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"The upload is larger than the {size(most)} that are taken at once.", hint="Send less.")


def _truncated() -> BadInput:
    return BadInput("The pack ends in the middle of a blob.", hint="Send it again.")


async def missing(request: web.Request) -> web.Response:
    """Which of these digests are not stored."""
    fields = await read_json(request)
    wanted = _digests(fields)
    return reply({"missing": list(await desk(request).blobs.missing(wanted))})


def _digests(fields: Fields) -> list[str]:
    wanted = [digest(text) for text in fields.texts("digests", most=MOST_DIGESTS)]
    fields.done()
    return wanted


async def put_pack(request: web.Request) -> web.Response:
    """Store every blob of a pack; what came whole before a fault stays and need not be sent again."""
    at = desk(request)
    incoming = Incoming(request, at.doors.upload, at.doors.chunk)
    stored = 0
    while head := await incoming.exactly(HEAD.size):
        if len(head) < HEAD.size:
            raise _truncated()
        raw, length = HEAD.unpack(head)
        await _store(at.blobs, incoming, raw.hex(), length)
        stored += 1
    return reply({"stored": stored})


async def _store(blobs: Blobs, incoming: Incoming, wanted: str, length: int) -> None:
    if length > SMALL:
        await blobs.put(incoming.part(length), wanted)
        return
    data = await incoming.exactly(length)
    if len(data) < length:
        raise _truncated()
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise BadInput(f"The content has the digest {found}, not {wanted}.", hint="Send it again.")
    await blobs.put_bytes(data)


async def put_one(request: web.Request) -> web.Response:
    """Store one blob under the digest that the path names."""
    at = desk(request)
    incoming = Incoming(request, at.doors.upload, at.doors.chunk)
    wanted = digest(request.match_info["digest"])
    return reply({"digest": await at.blobs.put(incoming.everything(), wanted)}, 201)


async def get_one(request: web.Request) -> web.StreamResponse:
    """One blob's content."""
    at = desk(request)
    content = at.blobs.open(digest(request.match_info["digest"]))
    first = await anext(content, b"")  # before the head of the answer is out: it may not be there
    out = _outflow(request, at)
    await out.begin()
    if first:
        await out.write(first)
    async for data in content:
        await out.write(data)
    await out.response.write_eof()
    return out.response


async def fetch(request: web.Request) -> web.StreamResponse:
    """Several blobs as a pack, in the order asked for."""
    at = desk(request)
    wanted = _digests(await read_json(request))
    absent = await at.blobs.missing(wanted)
    if absent:
        raise NotFound(f"There is no blob {absent[0]}.", hint=_count(absent))
    out = _outflow(request, at)
    await out.begin()
    for one in wanted:
        async for data in packed(at.blobs, one):
            await out.write(data)
    await out.response.write_eof()
    return out.response


def _count(absent: Sequence[str]) -> str:
    return f"{len(absent)} of those asked for are not there." if len(absent) > 1 else ""


async def packed(blobs: Blobs, one: str) -> AsyncIterator[bytes]:
    """One blob as it stands in a pack. The length comes first: a large one is measured, then read again."""
    held, length = bytearray(), 0
    async for data in blobs.open(one):
        length += len(data)
        if length <= HELD:
            held += data
    yield HEAD.pack(bytes.fromhex(one), length)
    if length <= HELD:
        yield bytes(held)
        return
    async for data in blobs.open(one):
        yield data


def _outflow(request: web.Request, at: Desk) -> Outflow:
    return Outflow(request, at.doors.chunk, {"Content-Type": "application/octet-stream"})
