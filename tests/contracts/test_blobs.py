"""What every place for blobs promises."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest

from nsml.core.errors import BadInput, NotFound, TooLarge

NOBODY = "0" * 64


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def everything(blobs) -> list[str]:
    return sorted([digest async for digest, _, _ in blobs.everything()])


async def test_the_same_bytes_have_the_same_digest_however_they_come(blobs):
    data = b"abc" * 1000
    assert await blobs.put(pieces(data[:5], b"", data[5:])) == sha(data)
    assert await blobs.put_bytes(data) == sha(data)
    assert await everything(blobs) == [sha(data)]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (9 << 20) + 17])
async def test_content_is_read_as_it_was_stored(blobs, size):
    data = random.Random(size).randbytes(size)
    digest = await blobs.put(pieces(*(data[at : at + 700_000] for at in range(0, size, 700_000))), sha(data))
    assert b"".join([chunk async for chunk in blobs.open(digest)]) == data
    assert await blobs.get_bytes(digest) == data


async def test_content_of_another_digest_is_refused_and_not_kept(blobs):
    with pytest.raises(BadInput):
        await blobs.put(pieces(b"abd"), sha(b"abc"))
    assert await everything(blobs) == []
    assert list(await blobs.missing([sha(b"abc"), sha(b"abd")])) == [sha(b"abc"), sha(b"abd")]


async def test_the_sizes_of_what_is_stored_are_told(blobs):
    stored = [await blobs.put_bytes(b""), await blobs.put_bytes(b"abc"), await blobs.put(pieces(b"x" * 9))]
    assert dict(await blobs.sizes([*stored, sha(b"absent")])) == dict(zip(stored, [0, 3, 9], strict=True))


async def test_half_a_put_is_invisible_and_leaves_nothing(blobs):
    halfway, seen = asyncio.Event(), []

    async def cut_off() -> AsyncIterator[bytes]:
        yield b"x" * (6 << 20)
        halfway.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(blobs.put(cut_off()))
    await halfway.wait()
    seen += await everything(blobs)
    put.cancel()
    await asyncio.wait([put])
    assert put.cancelled()
    assert seen + await everything(blobs) == []


async def test_a_sender_that_fails_leaves_nothing(blobs):
    async def fails() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await blobs.put(fails())
    assert await everything(blobs) == []


async def test_concurrent_puts_of_one_content_agree(blobs):
    data = random.Random(3).randbytes(300_000)
    digests = await asyncio.gather(
        *(blobs.put(pieces(data[:100], data[100:])) for _ in range(10)),
        *(blobs.put_bytes(data) for _ in range(10)),
    )
    assert set(digests) == {sha(data)}
    assert await blobs.get_bytes(sha(data)) == data


async def test_missing_are_those_not_stored_in_the_order_asked(blobs):
    stored = [await blobs.put_bytes(bytes([number])) for number in range(20)]
    absent = [sha(bytes([number])) for number in range(100, 103)]
    assert list(await blobs.missing([absent[0], *stored, absent[1], absent[2]])) == absent
    assert list(await blobs.missing([])) == []


async def test_what_is_not_there_is_not_found(blobs):
    with pytest.raises(NotFound):
        await blobs.get_bytes(NOBODY)
    with pytest.raises(NotFound):
        [chunk async for chunk in blobs.open(NOBODY)]


async def test_more_than_the_limit_is_not_read_into_memory(blobs):
    digest = await blobs.put_bytes(b"x" * 101)
    with pytest.raises(TooLarge):
        await blobs.get_bytes(digest, limit=100)


async def test_a_dropped_blob_is_gone_and_may_come_back(blobs):
    digest = await blobs.put_bytes(b"abc")
    await blobs.drop(digest)
    await blobs.drop(digest)
    assert list(await blobs.missing([digest])) == [digest]
    assert await blobs.put_bytes(b"abc") == digest
    assert await blobs.get_bytes(digest) == b"abc"


@pytest.mark.parametrize("digest", ["", "../x", "A" * 64, "0" * 63, "0" * 64 + "/", "tmp"])
async def test_what_is_no_digest_is_refused(blobs, digest):
    with pytest.raises(BadInput):
        await blobs.get_bytes(digest)
    with pytest.raises(BadInput):
        [chunk async for chunk in blobs.open(digest)]
    with pytest.raises(BadInput):
        await blobs.missing([digest])
    with pytest.raises(BadInput):
        await blobs.drop(digest)


async def test_the_listing_tells_size_and_time(blobs, any_clock):
    digest = await blobs.put_bytes(b"abc")
    ((listed, stored, size),) = [found async for found in blobs.everything()]
    assert (listed, size) == (digest, 3)
    assert abs(stored - any_clock.now()) < 60


async def test_ping_is_quiet_when_all_is_well(blobs):
    await blobs.ping()
