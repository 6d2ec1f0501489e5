"""The doors: the token, bodies that are not what they should be, senders and readers that rest."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fakes import until

from nsml.api import fields
from nsml.api.desk import Doors
from nsml.core.errors import Damaged, Refused, Unavailable

S = "/v1/sessions/alice/None/1"
PATHS = [
    ("GET", "/v1/status"),
    ("POST", "/v1/commands/session.run"),
    ("POST", "/v1/plan"),
    ("GET", "/v1/resolve"),
    ("GET", "/v1/sessions"),
    ("GET", S),
    ("GET", f"{S}/why"),
    ("GET", f"{S}/follow"),
    ("GET", f"{S}/log"),
    ("GET", f"{S}/plot"),
    ("GET", f"{S}/checkpoints"),
    ("GET", f"{S}/output"),
    ("GET", "/v1/datasets"),
    ("GET", "/v1/datasets/digits"),
    ("GET", "/v1/nodes"),
    ("GET", "/v1/gpus"),
    ("POST", "/v1/blobs"),
    ("POST", "/v1/blobs/missing"),
    ("POST", "/v1/blobs/fetch"),
    ("PUT", "/v1/blobs/" + "0" * 64),
    ("GET", "/v1/blobs/" + "0" * 64),
]


# -- the token -----------------------------------------------------------------------------------------
async def test_no_route_is_missing_from_the_list_of_tested_ones(office: Any) -> None:
    app = office.api.application()
    routes = {
        (r.method, r.resource.canonical) for r in app.router.routes() if r.resource and r.method != "HEAD"
    }
    assert len(routes) == len(PATHS) + 1, "add new routes to PATHS; /healthz is the one without a token"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer wrong",
        "Bearer ",
        "Bearer",
        "nsml_secret",
        "Basic nsml_secret",
        "Bearer nsml_secre",
        "Bearer \udcff",
    ],
)
async def test_without_the_token_nothing_is_said_not_even_what_there_is(
    office: Any, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with aiohttp.ClientSession() as stranger:
        for method, path in [*PATHS, ("GET", "/nowhere"), ("DELETE", "/v1/status"), ("GET", "/v1/../etc")]:
            async with stranger.request(method, office.base + path, headers=headers) as response:
                assert response.status == 401, path
                assert (await response.json())["error"]["code"] == "no-token"
                assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_health_needs_no_token_and_says_who_is_away_without_a_reason(office: Any) -> None:
    async with aiohttp.ClientSession() as stranger:
        async with stranger.get(office.base + "/healthz") as response:
            assert response.status == 200 and (await response.json())["ok"] is True

        async def away() -> None:
            raise Unavailable("/secret/path is gone")

        office.store.ping = away
        async with stranger.get(office.base + "/healthz") as response:
            assert response.status == 503
            answer = await response.json()
            assert answer["away"] == ["store"] and "secret" not in str(answer)


async def test_what_is_not_there_is_404_and_a_wrong_method_405(office: Any) -> None:
    assert (await office.call("GET", "/nowhere"))[0] == 404
    assert (await office.call("DELETE", "/v1/status"))[0] == 405
    assert (await office.call("GET", "/v1/sessions/a/b/c/d"))[0] == 404


# -- bodies --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"body": NaN}',
        b'{"body": {"memory": Infinity}}',
        b'{"body": "\xff"}',
        b'{"body": "\\ud800"}',
        b'{"body": {}, "extra": 1}',
        b'{"body": []}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"body":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"body": 1e999}',
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/commands/session.run", "/v1/plan", "/v1/blobs/missing", "/v1/blobs/fetch"]
)
async def test_what_is_not_the_right_json_is_400(office: Any, path: str, body: bytes) -> None:
    status, data = await office.call("POST", path, data=body)
    assert status == 400 and data["error"]["message"], data


async def test_a_body_over_the_limit_is_413_with_and_without_its_length_said(office: Any) -> None:
    async def endless() -> Any:
        for _ in range(40):
            yield b"x" * (1 << 20)

    big = json.dumps({"body": {"memo": "x" * (9 << 20)}}).encode()
    for data in (big, endless()):
        try:
            status, answer = await office.call("POST", "/v1/commands/session.run", data=data)
        except aiohttp.ClientConnectionError:
            continue  # the rest of the body was not read: the answer may get lost, too
        assert status == 413 and answer["error"]["code"] == "too-large"
    assert (await office.call("GET", "/v1/sessions"))[0] == 200


@pytest.mark.parametrize("path", ["/v1/commands/session.run", "/v1/blobs"])
async def test_a_body_that_unpacks_itself_is_not_taken(office: Any, path: str) -> None:
    bomb = gzip.compress(b"\0" * (20 << 20))
    headers = {"Content-Encoding": "gzip"}
    status, data = await office.call("POST", path, data=bomb, headers=headers)
    assert status == 400 and "gzip" in data["error"]["message"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "limit=9999999999999999999999",
        "all=maybe",
        "name=%00",
        "name=a%0Ab",
        "owner=" + "x" * 300,
    ],
)
async def test_a_wrong_parameter_is_refused(office: Any, query: str) -> None:
    assert (await office.call("GET", f"/v1/sessions?{query}"))[0] in (400, 413)


@pytest.mark.parametrize(
    "name", ["a%00/None/1", "a%0A/None/1", "a/None/0", "a/None/-1", "a/None/x", "$where/None/1"]
)
async def test_a_wrong_name_in_a_path_is_400(office: Any, name: str) -> None:
    assert (await office.call("GET", f"/v1/sessions/{name}"))[0] == 400


# -- time ----------------------------------------------------------------------------------------------
class TestSlowSenders:
    @pytest.fixture
    def doors(self) -> Doors:
        return Doors(idle=0.3, chunk=0.3)

    async def test_half_requests_end_and_others_are_served_meanwhile(self, office: Any) -> None:
        halves = [await asyncio.open_connection("127.0.0.1", office.api._port) for _ in range(50)]
        for _, writer in halves:
            writer.write(b"GET /v1/sta")
        assert (await office.call("GET", "/v1/sessions"))[0] == 200

        async def dripping() -> None:
            while True:
                for _, writer in halves:
                    writer.write(b"x")
                await asyncio.sleep(0.05)

        drip = asyncio.create_task(dripping())
        try:
            async with asyncio.timeout(5):
                for reader, _ in halves:
                    with_what = await reader.read()
                    assert with_what == b""
        except ConnectionResetError:
            pass
        finally:
            drip.cancel()
        for _, writer in halves:
            writer.close()

    async def test_a_body_that_never_comes_is_408(self, office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fields, "BODY_SECONDS", 0.3)
        head = b"Host: x\r\nAuthorization: Bearer nsml_secret\r\nContent-Length: 1000\r\n\r\n{"
        for line in (b"POST /v1/commands/session.run HTTP/1.1\r\n", b"POST /v1/blobs HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", office.api._port)
            writer.write(line + head)
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()

    async def test_a_reader_that_takes_nothing_is_cut_off(self, office: Any) -> None:
        session = await office.run()
        await office.place(session)
        await office.write_log(session, 1, ("out", b"x" * (32 << 20)))
        _, writer = await asyncio.open_connection("127.0.0.1", office.api._port, limit=1024)
        head = "Host: x\r\nAuthorization: Bearer nsml_secret\r\n\r\n"
        writer.write(f"GET /v1/sessions/{session}/log?follow=1 HTTP/1.1\r\n{head}".encode())
        watchers = office.api.live._bells
        await until(lambda: session in watchers)
        await until(lambda: session not in watchers)
        writer.close()


# -- failures ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unavailable("The store is away."), 503, "unavailable"),
        (Damaged("The file is damaged."), 500, "damaged"),
        (Refused("No."), 409, "refused"),
        (ZeroDivisionError("secret detail"), 500, "error"),
        (web.HTTPConflict(), 409, "bad-input"),
    ],
)
async def test_every_failure_is_an_answer_in_one_shape(
    office: Any, error: Exception, status: int, code: str
) -> None:
    async def scan(*_: object, **__: object) -> None:
        raise error

    office.store.scan = scan
    async with office.http.get(office.base + "/v1/sessions") as response:
        data = await response.json()
        assert (response.status, data["error"]["code"]) == (status, code)
        assert "secret detail" not in data["error"]["message"]
        assert (response.headers.get("Retry-After") == "2") == (status == 503)


async def test_what_nobody_foresaw_is_found_in_the_log_by_its_event(
    office: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scan(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    office.store.scan = scan
    _, data = await office.call("GET", "/v1/sessions")
    event = data["error"]["hint"].split("event ")[1].split("'")[0]
    assert any(event in record.message and record.exc_info for record in caplog.records)


async def test_it_stops_at_once_though_readers_follow(office: Any) -> None:
    session = await office.run()
    async with office.http.get(f"{office.base}/v1/sessions/{session}/log?follow=1") as response:
        assert response.status == 200
        async with asyncio.timeout(5):
            await office.http.close()
