from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nsml.core.errors import BadInput, Unavailable
from nsml.store.blobs import ObjectBlobs


@pytest.fixture
async def blobs(tmp_path: Path):
    async with ObjectBlobs(f"file:{tmp_path / 'blobs'}") as opened:
        yield opened


async def test_a_blob_lies_where_its_digest_says_and_cannot_be_written(blobs):
    for digest in (await blobs.put_bytes(b"abc"), await blobs.put(pieces(b"abcd"))):
        path = blobs.path(digest)
        assert path == blobs.root / digest[:2] / digest
        assert path.stat().st_mode & 0o777 == 0o444


async def pieces(*chunks: bytes):
    for chunk in chunks:
        yield chunk


async def test_what_is_not_stored_has_no_path(blobs):
    assert blobs.path("0" * 64) is None
    with pytest.raises(BadInput):
        blobs.path("../../etc/passwd")


async def test_asking_for_a_blob_keeps_it_young(blobs):
    digest = await blobs.put_bytes(b"abc")
    os.utime(blobs.path(digest), (0, 0))
    await blobs.missing([digest])
    ((_, stored, _),) = [found async for found in blobs.everything()]
    assert stored > 1e9
    os.utime(blobs.path(digest), (0, 0))
    await blobs.put_bytes(b"abc")
    assert blobs.path(digest).stat().st_mtime > 1e9


async def test_a_put_that_was_cut_off_leaves_no_file(blobs):
    halfway = asyncio.Event()

    async def cut_off():
        yield b"x" * (9 << 20)
        halfway.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(blobs.put(cut_off()))
    await halfway.wait()
    put.cancel()
    await asyncio.wait([put])
    del put
    async with asyncio.timeout(5):
        while [path for path in (blobs.root / "tmp").iterdir() if path.name != "now"]:
            await asyncio.sleep(0.01)


async def test_what_a_killed_platform_left_goes_after_a_day(tmp_path):
    folder = tmp_path / "blobs" / "tmp"
    folder.mkdir(parents=True)
    for name, age in (("old#1", 100_000), ("young#1", 100)):
        (folder / name).write_bytes(b"half")
        stamp = folder.stat().st_mtime - age
        os.utime(folder / name, (stamp, stamp))
    async with ObjectBlobs(f"file:{tmp_path / 'blobs'}"):
        assert sorted(path.name for path in folder.iterdir()) == ["now", "young#1"]


@pytest.mark.parametrize("way", ["put", "put_bytes"])
async def test_a_full_disk_is_told_and_overcome(blobs, way):
    data = os.urandom(5 << 20)

    async def store() -> str:
        return await (blobs.put(pieces(data)) if way == "put" else blobs.put_bytes(data))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Unavailable, match="is full"):
            await store()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [found async for found in blobs.everything()] == []
    assert await blobs.get_bytes(await store()) == data


async def test_five_thousand_questions_take_no_time(blobs):
    digests = [await blobs.put_bytes(b"%d" % number) for number in range(100)] * 50
    async with asyncio.timeout(2):
        assert list(await blobs.missing(digests)) == []


def test_a_place_that_is_none_is_refused():
    with pytest.raises(BadInput):
        ObjectBlobs("gopher://x")


async def test_closed_blobs_say_so(tmp_path):
    async with ObjectBlobs(f"file:{tmp_path / 'b'}") as blobs:
        pass
    with pytest.raises(Unavailable):
        await blobs.put_bytes(b"x")
    with pytest.raises(Unavailable):
        await blobs.missing(["0" * 64])


async def test_a_sender_that_fails_leaves_no_file_even_while_its_error_is_kept(tmp_path: Path) -> None:
    async def fails() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * (1 << 20)
        raise ConnectionResetError("gone")

    async with ObjectBlobs(f"file:{tmp_path}") as blobs:
        with pytest.raises(ConnectionResetError) as kept:
            await blobs.put(fails())
        assert kept.value.__traceback__
        assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["now"]
