"""A session's life as server-sent events: each change, the build's lines, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fakes import until

from nsml.core import catalogue as c


async def events(office: Any, session: str) -> AsyncIterator[tuple[str, Any]]:
    async with office.http.get(f"{office.base}/v1/sessions/{session}/follow") as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        name = ""
        async for line in response.content:
            if line.startswith(b"event: "):
                name = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                yield name, orjson.loads(line[6:])


async def collect(
    office: Any, session: str, told: list[tuple[str, Any]] | None = None
) -> list[tuple[str, Any]]:
    told = [] if told is None else told
    async for event in events(office, session):
        told.append(event)
    return told


async def test_each_change_is_told_and_the_end_when_all_is_recorded(office: Any) -> None:
    session, told = await office.run(), list[tuple[str, Any]]()

    def has(field: str, value: str) -> bool:
        return any(name == "session" and row[field] == value for name, row in told)

    following = asyncio.create_task(collect(office, session, told))
    await until(lambda: has("reason", "the scheduler has not looked at it yet"))
    await office.queue({"session": session, "position": 1, "reason": "no GPU is free", "nearest": None})
    await until(lambda: has("reason", "no GPU is free"))
    await office.place(session)
    await until(lambda: has("status", "running"))
    await office.tell(c.AttemptProgressed(session=session, attempt=1, node="n1", phase="saving"))
    await until(lambda: has("phase", "saving"))
    await office.exit(session, 3, streams=((f"log/{session}/1", 4),), tail="oops")
    await until(lambda: has("status", "failed"))
    await asyncio.sleep(0.1)
    assert not following.done(), "the log is not recorded yet"
    await office.write_log(session, 1, ("out", b"oops"))
    await asyncio.wait_for(following, 10)
    name, last = told[-1]
    assert name == "end" and (last["status"], last["exit_code"], last["reason"]) == (
        "failed",
        3,
        "exit code 3",
    )


async def test_the_build_of_its_environment_is_told_line_by_line(office: Any) -> None:
    session = await office.run()
    await office.place(session)
    following = asyncio.create_task(collect(office, session))
    await until(lambda: session in office.api.live._bells)
    stream, text = f"build/{session}/1", "Résolu ✓\n" * 3
    data = text.encode()
    for at in range(0, len(data), 5):  # cut in the middle of characters
        piece = data[at : at + 5]
        await office.streams.append(stream, at, piece)
        await office.tell(c.LogGrew(session=session, stream=stream, offset=at, data=piece))
        await asyncio.sleep(0.01)
    await office.exit(session)
    told = await asyncio.wait_for(following, 10)
    assert "".join(data["text"] for name, data in told if name == "build") == text


async def test_one_that_was_turned_away_ends_as_removed_with_its_reason(office: Any) -> None:
    from nsml.core.messages import Envelope
    from nsml.core.session import SESSION

    session = await office.run(no_queue=True)
    following = asyncio.create_task(collect(office, session))
    await until(lambda: session in office.api.live._bells)
    message = c.TurnAwaySession(session=session, reason="no GPU is free")
    await office.clerk.apply(SESSION, session, Envelope(body=message, at=2.0))
    told = await asyncio.wait_for(following, 5)
    assert told[-1] == ("end", {"session": session, "status": "removed", "reason": "no GPU is free"})


async def test_a_session_that_is_not_there_is_404(office: Any) -> None:
    assert (await office.call("GET", "/v1/sessions/alice/None/7/follow"))[0] == 404
