"""What every place for streams promises."""

from __future__ import annotations

import asyncio
import random

import pytest

from nsml.core.errors import BadInput, Conflict

LOG = "log/alice/mnist/12/1"


async def test_what_was_appended_is_read_byte_for_byte(streams):
    data = bytes(range(256)) * 3
    await streams.append(LOG, 0, data)
    await streams.append(LOG, len(data), b"\r\n\x00\xff")
    assert await streams.read(LOG, 0, 10_000) == data + b"\r\n\x00\xff"
    assert await streams.size(LOG) == len(data) + 4


async def test_reads_are_exact_from_any_offset(streams):
    data = random.Random(1).randbytes(5_000)
    await streams.append(LOG, 0, data)
    for offset, limit in [(0, 0), (0, 1), (1, 4_999), (4_999, 10), (5_000, 1), (9_000, 1), (17, 100)]:
        assert await streams.read(LOG, offset, limit) == data[offset : offset + limit]


async def test_an_offset_twice_counts_once(streams):
    await streams.append(LOG, 0, b"hello")
    await streams.append(LOG, 0, b"hello")
    await streams.append(LOG, 3, b"lo, world")
    await streams.append(LOG, 2, b"ll")
    assert await streams.read(LOG, 0, 100) == b"hello, world"


async def test_a_gap_is_refused_not_filled(streams):
    with pytest.raises(Conflict):
        await streams.append(LOG, 1, b"x")
    await streams.append(LOG, 0, b"abc")
    with pytest.raises(Conflict):
        await streams.append(LOG, 4, b"x")
    assert await streams.size(LOG) == 3


async def test_what_is_not_there_is_empty(streams):
    assert await streams.read(LOG, 0, 10) == b""
    assert await streams.size(LOG) == 0
    assert list(await streams.find("log/")) == []
    await streams.append(LOG, 0, b"")
    assert await streams.size(LOG) == 0


async def test_pieces_sent_twice_and_at_once_make_one_whole(streams):
    data = random.Random(2).randbytes(64_000)
    pieces = [(at, data[at : at + 1_000]) for at in range(0, len(data), 1_000)]

    async def send() -> None:
        for offset, piece in pieces:
            await streams.append(LOG, offset, piece)

    await asyncio.gather(send(), send(), send())
    assert await streams.read(LOG, 0, 1 << 20) == data


async def test_streams_are_found_by_the_beginning_of_their_names(streams):
    for name in ("log/a/x/1/1", "log/a/x/1/2", "log/a/x/12/1", "log.err/a/x/1/1", "build/a/x/1/1"):
        await streams.append(name, 0, b"x")
    assert list(await streams.find("log/a/x/1/")) == ["log/a/x/1/1", "log/a/x/1/2"]
    assert list(await streams.find("log/a/x/1")) == ["log/a/x/1/1", "log/a/x/1/2", "log/a/x/12/1"]
    assert len(await streams.find("")) == 5


async def test_what_is_dropped_is_gone_and_nothing_else(streams):
    for name in ("log/a/x/1/1", "log/a/x/1/2", "log/a/x/12/1"):
        await streams.append(name, 0, b"x" * 100)
    await streams.drop("log/a/x/1/")
    await streams.drop("log/a/x/1/")
    assert list(await streams.find("log/")) == ["log/a/x/12/1"]
    assert await streams.size("log/a/x/1/1") == 0
    await streams.append("log/a/x/1/1", 0, b"again")
    assert await streams.read("log/a/x/1/1", 0, 10) == b"again"


@pytest.mark.parametrize("name", ["", "/etc/x", "a/../../x", "..", "a//b", "a/./b", "a/\0", "a/" + "x" * 300])
async def test_a_name_that_leads_elsewhere_is_refused(streams, name):
    with pytest.raises(BadInput):
        await streams.append(name, 0, b"x")
    with pytest.raises(BadInput):
        await streams.read(name, 0, 1)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../"])
async def test_no_prefix_leads_elsewhere(streams, prefix):
    for call in (streams.find(prefix), streams.drop(prefix)):
        with pytest.raises(BadInput):
            await call


async def test_ping_is_quiet_when_all_is_well(streams):
    await streams.ping()
