"""A session's log over HTTP: every byte once, in order, from wherever it is asked for."""

from __future__ import annotations

import asyncio
import random
import re
import struct
import time
from typing import Any

import aiohttp
import pytest
from fakes import until

from nsml.api import logs
from nsml.core import catalogue as c


async def read(office: Any, session: str, query: str = "") -> bytes:
    async with office.http.get(f"{office.base}/v1/sessions/{session}/log{query}") as response:
        assert response.status == 200, await response.text()
        return bytes(await response.read())


async def started(office: Any, **changes: Any) -> str:
    session = await office.run(**changes)
    await office.place(session)
    return str(session)


# -- whole -----------------------------------------------------------------------------------------------
async def test_a_session_that_waits_has_an_empty_log(office: Any) -> None:
    session = await office.run()
    assert await read(office, session) == b""
    assert await read(office, session, "?tail=5&since=1&offset=7") == b""


async def test_the_log_of_a_session_is_its_attempts_logs_in_order(office: Any) -> None:
    session = await started(office, retries=12)
    written = b""
    for attempt in range(1, 12):
        line = f"attempt {attempt}\n".encode()
        await office.write_log(session, attempt, ("out", line))
        written += line
        await office.exit(session, 1)
        await office.place(session)
    assert await read(office, session) == written
    assert await read(office, session, "?tail=3") == b"attempt 9\nattempt 10\nattempt 11\n"
    for offset in (0, 5, 10, 11, len(written) - 1, len(written), 10**9):
        async with office.http.get(f"{office.base}/v1/sessions/{session}/log?offset={offset}") as response:
            assert await response.read() == written[offset:]
            assert response.headers["X-Log-Size"] == str(len(written))
            assert response.headers["X-Log-Offset"] == str(min(offset, len(written)))


async def test_binary_garbage_comes_back_byte_for_byte(office: Any) -> None:
    session = await started(office)
    garbage = random.Random(1).randbytes(700_000)
    await office.write_log(session, 1, ("out", garbage))
    assert await read(office, session) == garbage


# -- stderr ------------------------------------------------------------------------------------------------
async def test_stdout_and_stderr_are_told_apart(office: Any) -> None:
    session = await started(office)
    chance = random.Random(2)
    pieces = [(chance.choice(["out", "err"]), b"%d\n" % i * chance.randrange(1, 400)) for i in range(500)]
    await office.write_log(session, 1, *pieces)
    by_kind = {kind: b"".join(data for k, data in pieces if k == kind) for kind in ("out", "err")}
    assert await read(office, session) == b"".join(data for _, data in pieces)
    assert await read(office, session, "?stream=stdout") == by_kind["out"]
    assert await read(office, session, "?stream=stderr") == by_kind["err"]
    coloured = await read(office, session, "?color=1")
    assert coloured == b"".join(b"\x1b[31m" + d + b"\x1b[0m" if k == "err" else d for k, d in pieces)
    red = b"".join(re.findall(rb"\x1b\[31m(.*?)\x1b\[0m", coloured, re.DOTALL))
    assert red == by_kind["err"]


async def test_where_blocks_are_cut_does_not_show_in_colours(office: Any) -> None:
    session = await started(office)
    long = b"e" * (logs.BLOCK + 1000)
    await office.write_log(session, 1, ("out", b"o" * 100), ("err", long), ("out", b"end"))
    assert await read(office, session, "?color=1") == b"o" * 100 + b"\x1b[31m" + long + b"\x1b[0mend"
    inside = await read(office, session, "?color=1&offset=200")
    assert inside == b"\x1b[31m" + long[100:] + b"\x1b[0mend", "who begins inside sees it red, too"


async def test_an_unknown_stream_is_refused(office: Any) -> None:
    session = await started(office)
    assert (await office.call("GET", f"/v1/sessions/{session}/log?stream=stdlog"))[0] == 400
    assert (await office.call("GET", f"/v1/sessions/{session}/log?tail=-1"))[0] == 400
    assert (await office.call("GET", f"/v1/sessions/{session}/log?since=nan"))[0] == 400


# -- tail ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", [b"", b"\n", b"one", b"one\n", b"one\ntwo", b"one\ntwo\n", b"\n\n\n", b"a\n\nb\n"]
)
async def test_a_tail_is_the_last_lines_as_tail_counts_them(office: Any, text: bytes) -> None:
    session = await started(office)
    if text:
        await office.write_log(session, 1, ("out", text))
    lines = text.splitlines(keepends=True)
    for count in range(5):
        assert await read(office, session, f"?tail={count}") == b"".join(
            lines[len(lines) - min(count, len(lines)) :]
        )


async def test_a_tail_is_right_across_blocks_attempts_and_streams(office: Any) -> None:
    session = await started(office, retries=1)
    chance = random.Random(3)
    all_lines: list[tuple[str, bytes]] = []
    for attempt in (1, 2):
        lines = [
            (chance.choice(["out", "err"]), b"%d.%d %s\n" % (attempt, i, b"x" * chance.randrange(300)))
            for i in range(1500)
        ]
        await office.write_log(session, attempt, *lines)
        all_lines += lines
        if attempt == 1:
            await office.exit(session, 1)
            await office.place(session)
    for count in (1, 2, 1499, 1500, 1501, 2500, 5000):
        assert await read(office, session, f"?tail={count}") == b"".join(d for _, d in all_lines[-count:])
        errors = [d for k, d in all_lines if k == "err"]
        assert await read(office, session, f"?tail={count}&stream=stderr") == b"".join(errors[-count:])


async def test_a_tail_of_a_large_log_takes_milliseconds(office: Any) -> None:
    session = await started(office)
    stream = f"log/{session}/1"
    line = b"a line of a usual length, about sixty-four bytes or a few more\n"
    block = line * (4_000_000 // len(line))
    for _ in range(50):
        await office.streams.append(stream, await office.streams.size(stream), block)
    best = 9.0
    for _ in range(5):
        began = time.perf_counter()
        assert await read(office, session, "?tail=10") == line * 10
        best = min(best, time.perf_counter() - began)
    assert best < 0.1, f"{best:.3f} s for ten lines of 200 MB"


# -- since -----------------------------------------------------------------------------------------------
async def test_since_begins_where_the_time_index_says_at_the_start_of_a_line(office: Any) -> None:
    session = await started(office, retries=1)
    offset = 0
    for second in range(10):
        await office.stamp(session, 1, offset + (3 if second else 0), 1000.0 + 10 * second)
        offset = await office.write_log(session, 1, ("out", b"line %d\n" % second))
    await office.exit(session, 1)
    await office.place(session)
    await office.stamp(session, 2, 0, 2000.0)
    await office.write_log(session, 2, ("out", b"again\n"))
    lines = [b"line %d\n" % i for i in range(10)]
    for at, first in [(0, 0), (1000, 0), (1000.5, 0), (1005, 1), (1010, 1), (1089, 9), (1090.9, 9)]:
        assert await read(office, session, f"?since={at}") == b"".join(lines[first:]) + b"again\n", at
    assert await read(office, session, "?since=1091.5") == b"again\n"
    assert await read(office, session, "?since=2000.5") == b"again\n"
    assert await read(office, session, "?since=2002") == b""


async def test_without_an_index_the_end_of_the_session_decides(office: Any) -> None:
    session = await started(office)
    await office.write_log(session, 1, ("out", b"text\n"))
    assert await read(office, session, f"?since={time.time() + 100}") == b"text\n", "it still runs"
    await office.exit(session)
    assert await read(office, session, f"?since={time.time() + 100}") == b""
    assert await read(office, session, f"?since={time.time() - 100}") == b"text\n"


# -- follow ------------------------------------------------------------------------------------------------
async def test_following_gives_every_byte_of_every_attempt_and_ends_with_the_session(office: Any) -> None:
    session = await office.run(retries=1)
    reading = asyncio.create_task(read(office, session, "?follow=1"))
    await until(lambda: session in office.api.live._bells)
    written = b""
    for attempt in (1, 2):
        await office.place(session)
        for i in range(200):
            line = b"%d %d\n" % (attempt, i)
            await office.write_log(session, attempt, ("err" if i % 3 else "out", line))
            written += line
        size = await office.streams.size(f"log/{session}/{attempt}")
        await office.exit(session, 2 - attempt, streams=((f"log/{session}/{attempt}", size),))
    assert await asyncio.wait_for(reading, 10) == written


async def test_following_waits_for_bytes_that_were_told_of_but_are_not_recorded_yet(office: Any) -> None:
    session = await started(office)
    await office.write_log(session, 1, ("out", b"early\n"))
    reading = asyncio.create_task(read(office, session, "?follow=1"))
    await until(lambda: session in office.api.live._bells)
    await office.exit(session, streams=((f"log/{session}/1", 11),))
    await asyncio.sleep(0.1)
    assert not reading.done(), "it ended though five bytes are still to come"
    await office.streams.append(f"log/{session}/1", 6, b"late\n")
    assert await asyncio.wait_for(reading, 10) == b"early\nlate\n"


async def test_following_in_colours_waits_until_it_is_known_what_was_stderr(office: Any) -> None:
    session = await started(office)
    stream, ranges = f"log/{session}/1", f"log.err/{session}/1"
    reading = asyncio.create_task(read(office, session, "?follow=1&color=1"))
    await until(lambda: session in office.api.live._bells)
    for i in range(3):  # the bytes come first, what they were a moment later
        at = 8 * i
        await office.streams.append(stream, at, b"out\nerr\n")
        await office.tell(c.LogGrew(session=session, stream=stream, offset=at, data=b"out\nerr\n"))
        await asyncio.sleep(0.3)
        pair = struct.pack("<QQ", at + 4, at + 8)
        await office.streams.append(ranges, 16 * i, pair)
        await office.tell(c.LogGrew(session=session, stream=ranges, offset=16 * i, data=pair))
    await office.exit(session, streams=((stream, 24), (ranges, 48)))
    assert await asyncio.wait_for(reading, 10) == b"out\n\x1b[31merr\n\x1b[0m" * 3


async def test_following_an_ended_or_removed_session_ends(office: Any) -> None:
    session = await started(office)
    await office.write_log(session, 1, ("out", b"x\n"))
    await office.exit(session)
    assert await asyncio.wait_for(read(office, session, "?follow=1&tail=1"), 5) == b"x\n"
    waiting = await office.run()
    reading = asyncio.create_task(read(office, waiting, "?follow=1"))
    await until(lambda: waiting in office.api.live._bells)
    await office.command("session.remove", {"session": waiting, "force": True})
    assert await asyncio.wait_for(reading, 5) == b""


async def test_a_reader_that_comes_back_fifty_times_has_every_byte_once(office: Any) -> None:
    session = await started(office)
    stream, copy, done = f"log/{session}/1", bytearray(), asyncio.Event()
    lines = [b"line %06d\n" % i for i in range(5000)]

    async def write() -> None:
        for at in range(0, len(lines), 50):
            await office.write_log(session, 1, ("out", b"".join(lines[at : at + 50])))
            await asyncio.sleep(0.005)
        await office.exit(session, streams=((stream, await office.streams.size(stream)),))

    async def follow() -> None:
        chance = random.Random(4)
        for again in range(1000):
            url = f"{office.base}/v1/sessions/{session}/log?follow=1&offset={len(copy)}"
            async with office.http.get(url) as response:
                least = chance.randrange(200, 900) if again < 50 else 1 << 30
                got = 0
                async for piece in response.content.iter_any():
                    copy.extend(piece)
                    got += len(piece)
                    if got >= least:
                        response.close()
                        break
                else:
                    return done.set()

    await asyncio.wait_for(asyncio.gather(write(), follow()), 60)
    assert bytes(copy) == b"".join(lines)


async def test_readers_that_leave_are_forgotten(office: Any) -> None:
    session = await started(office)
    async with aiohttp.ClientSession(headers=office.http.headers) as others:
        for kind in ("log?follow=1", "follow"):
            for _ in range(20):
                response = await others.get(f"{office.base}/v1/sessions/{session}/{kind}")
                assert response.status == 200
                response.close()
    await until(lambda: session not in office.api.live._bells, timeout=15)
