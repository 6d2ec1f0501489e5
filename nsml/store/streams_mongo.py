"""MongoStreams: append-only byte streams as rows of chunks in MongoDB."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nsml.core.errors import Conflict
from nsml.store import stream_names
from nsml.store.mongo_client import Opened

SHORT = 16 << 10  # a last chunk below this grows; one that has reached it is left as it is, for ever
LARGE = 1 << 20  # of one write; a document may have 16 MB
TAILS = 1_000  # streams whose end is known without asking; each costs at most `SHORT` bytes
AT_ONCE = 16  # chunks read at a time: some 16 MB at most


@dataclass(frozen=True, slots=True)
class _Tail:
    """The last chunk of a stream; nothing is there when it is empty."""

    offset: int = 0
    data: bytes = b""
    end: int = 0

    @property
    def grows(self) -> bool:
        return 0 < self.end - self.offset < SHORT


class MongoStreams(Opened):
    """Streams at *url*, those of *cluster*. What an append does follows from the last chunk alone: a short
    one is written anew, longer, if it still ends where it did; after a long one the next begins, whose place
    only one can take. So of several that append at once each sees what the others did, and tries again."""

    def __init__(self, url: str, cluster: str = "default") -> None:
        super().__init__(url, cluster)
        self._tails: OrderedDict[str, _Tail] = OrderedDict()

    async def _prepare(self) -> None:
        async with self._chunks() as chunks:
            await chunks.create_index([("stream", 1), ("offset", 1)], unique=True)
        async with self._chunks() as chunks:
            await chunks.create_index([("stream", 1), ("end", 1)])

    async def append(self, stream: str, offset: int, data: bytes) -> None:
        stream_names.parts(stream)
        done = 0
        while True:
            piece = data[done : done + LARGE]
            async with self._mongo.limit():
                await self._append(stream, offset + done, piece)
            done += len(piece)
            if done >= len(data):
                return

    async def _append(self, stream: str, offset: int, data: bytes) -> None:
        known = self._tails.pop(stream, None)  # put back when it held: after any doubt the server is asked
        tail = known if known and offset == known.end else await self._tail(stream)
        while True:
            if offset > tail.end:
                raise Conflict(f"{stream} ends at {tail.end}: bytes from {offset} on would leave a gap.")
            new = data[tail.end - offset :]
            after = await self._put(stream, tail, new) if new else tail
            if after:
                self._remember(stream, after)
                return
            tail = await self._tail(stream)

    async def _put(self, stream: str, tail: _Tail, new: bytes) -> _Tail | None:
        """The tail with *new* behind it; None when the stream does not end with *tail* any more."""
        end = tail.end + len(new)
        if tail.grows:
            after = _Tail(tail.offset, tail.data + new, end)
            same = {"stream": stream, "offset": tail.offset, "end": tail.end}
            async with self._chunks() as chunks:
                done = await chunks.update_one(same, {"$set": {"data": after.data, "end": end}})
            return after if done.matched_count else None
        after = _Tail(tail.end, new, end)
        try:
            async with self._chunks() as chunks:
                await chunks.insert_one({"stream": stream, "offset": tail.end, "end": end, "data": new})
        except Conflict:
            return None
        return after

    def _remember(self, stream: str, tail: _Tail) -> None:
        self._tails[stream] = tail if tail.grows else _Tail(tail.offset, b"", tail.end)
        if len(self._tails) > TAILS:
            self._tails.popitem(last=False)

    async def _tail(self, stream: str) -> _Tail:
        async with self._chunks() as chunks:
            found = await chunks.find_one({"stream": stream}, sort=[("offset", -1)])
        return _Tail(int(found["offset"]), bytes(found["data"]), int(found["end"])) if found else _Tail()

    async def read(self, stream: str, offset: int, limit: int) -> bytes:
        stream_names.parts(stream)
        read = bytearray()
        while len(read) < limit:
            before = len(read)
            for chunk in await self._covering(stream, offset + before, offset + limit):
                position = offset + len(read)
                if chunk["offset"] > position:
                    break
                read += bytes(chunk["data"])[position - chunk["offset"] :]
            if len(read) == before:
                break
        return bytes(read[:limit])

    async def _covering(self, stream: str, start: int, end: int) -> Sequence[Mapping[str, Any]]:
        """The first chunks that hold something of *start* to *end*, in their order."""
        which = {"stream": stream, "end": {"$gt": start}, "offset": {"$lt": end}}
        async with self._chunks() as chunks:
            first = chunks.find(which).sort([("end", 1)]).limit(AT_ONCE)
            found: list[dict[str, Any]] = await first.to_list(AT_ONCE)
        return sorted(found, key=lambda chunk: int(chunk["offset"]))

    async def size(self, stream: str) -> int:
        stream_names.parts(stream)
        async with self._chunks() as chunks:
            found = await chunks.find_one({"stream": stream}, {"end": 1}, sort=[("offset", -1)])
        return int(found["end"]) if found else 0

    async def find(self, prefix: str) -> Sequence[str]:
        stream_names.folder(prefix)
        async with self._chunks() as chunks:
            first = chunks.find({**_named(prefix), "offset": 0}, {"stream": 1})
            return sorted([found["stream"] for found in await first.to_list(None)])

    async def drop(self, prefix: str) -> None:
        stream_names.folder(prefix)
        for stream in [known for known in self._tails if known.startswith(prefix)]:
            del self._tails[stream]
        async with self._chunks() as chunks:
            await chunks.delete_many(_named(prefix))

    @asynccontextmanager
    async def _chunks(self) -> AsyncIterator[Any]:
        async with self._mongo.calls():
            yield self._mongo.collection("chunks")


def _named(prefix: str) -> dict[str, Any]:
    """The filter for the streams whose name begins with *prefix*: a range, which the index answers."""
    return {"stream": {"$gte": prefix, "$lt": prefix + chr(0x10FFFF)}}
