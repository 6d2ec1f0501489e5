from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from nsml.core.errors import BadInput, Unavailable
from nsml.store.streams_file import FileStreams


@pytest.fixture
async def streams(tmp_path: Path):
    async with FileStreams(tmp_path / "streams") as opened:
        yield opened


async def test_a_full_disk_is_told_and_overcome_without_a_gap(streams):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = os.urandom(300_000)
    await streams.append("log/a/x/1/1", 0, data[:1000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Unavailable, match="is full"):
            await streams.append("log/a/x/1/1", 1000, data[1000:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await streams.append("log/a/x/1/1", 1000, data[1000:])
    assert await streams.read("log/a/x/1/1", 0, 1 << 20) == data


async def test_a_drop_leaves_no_empty_folders(streams):
    await streams.append("log/a/x/1/1", 0, b"x")
    await streams.append("log/a/y/1/1", 0, b"x")
    await streams.drop("log/a/x/")
    assert sorted(path.name for path in (streams.root / "log/a").iterdir()) == ["y"]
    await streams.drop("")
    assert list(streams.root.iterdir()) == []


async def test_a_stream_cannot_be_below_another(streams):
    await streams.append("a/b", 0, b"x")
    with pytest.raises(BadInput):
        await streams.append("a/b/c", 0, b"x")
    with pytest.raises(BadInput):
        await streams.append("a", 0, b"x")


async def test_files_are_their_owners_alone(streams):
    await streams.append("log/a/x/1/1", 0, b"x")
    assert (streams.root / "log/a/x/1/1").stat().st_mode & 0o077 == 0


async def test_closed_streams_say_so(tmp_path):
    async with FileStreams(tmp_path / "s") as streams:
        pass
    with pytest.raises(Unavailable):
        await streams.read("a", 0, 1)


async def test_a_root_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((Unavailable, BadInput)):
        async with FileStreams(tmp_path / "file" / "streams"):
            pass
