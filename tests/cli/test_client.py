"""One call, one answer; a connection that was lost is made again."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest
from fake_platform import TOKEN, Answer, Call, FakePlatform, fake_platform

from nsml.core.errors import BadInput, NsmlError, Unavailable
from nsml_cli import client
from nsml_cli.client import Client
from nsml_cli.profile import Where


def test_a_connection_is_kept_from_call_to_call(platform: FakePlatform) -> None:
    platform.answers["/v1/nodes"] = []
    api = Client(Where(platform.base, TOKEN))
    api.get("/v1/nodes")
    first = api._connection().sock
    api.get("/v1/nodes")
    assert first is not None and api._connection().sock is first


def test_a_command_repeats_with_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0))
    with socket.create_server(("127.0.0.1", 0)) as server, fake_platform() as second:
        second.answers["/v1/commands/session.stop"] = {"session": "a/b/1"}
        got: list[bytes] = []

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                got.append(connection.recv(65536))
                connection.settimeout(0.2)
                try:
                    got.append(connection.recv(65536))
                except TimeoutError:
                    got.append(b"")

        thread = threading.Thread(target=hang_up)
        thread.start()
        moved = Where(second.base, TOKEN)
        api = Client(Where(f"http://127.0.0.1:{server.getsockname()[1]}", TOKEN), lambda: moved)
        assert api.command("session.stop", session="a/b/1") == {"session": "a/b/1"}
        thread.join()
        id = second.calls[0].json["id"]
        assert id.encode() in b"".join(got) and len(id) == 32


def test_giving_up_says_which_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0,))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        Client(Where("http://127.0.0.1:9", TOKEN)).get("/v1/nodes")


def test_a_platform_below_a_path(platform: FakePlatform) -> None:
    platform.answers["/team/v1/nodes"] = [1]
    assert Client(Where(f"{platform.base}/team", TOKEN)).get("/v1/nodes") == [1]


def test_queries_leave_out_what_is_not_there() -> None:
    assert client.encode({"a": None}) == "" and client.encode({"a": 1, "b": "x y"}) == "?a=1&b=x+y"


def test_names_go_into_paths_quoted() -> None:
    assert client.path_of("a/b c/1", "/why") == "/v1/sessions/a/b%20c/1/why"
    assert client.dataset_path("sky@2") == "/v1/datasets/sky?version=2"
    assert client.dataset_path("bob/sky") == "/v1/datasets/sky?owner=bob"
    with pytest.raises(BadInput):
        client.dataset_path("sky@latest")


def test_sessions_by_their_short_names(platform: FakePlatform) -> None:
    platform.answers["/v1/resolve"] = lambda call: {"session": f"alice/{call.query['session']}"}
    api = Client(Where(platform.base, TOKEN))
    assert api.session("alice/mnist/1") == "alice/mnist/1" and not platform.calls
    assert api.session("mnist/1") == "alice/mnist/1"
    for wrong in ("", " ", "a/b/c/d"):
        with pytest.raises(BadInput):
            api.session(wrong)


def test_events_are_read_one_by_one() -> None:
    lines = [
        b": hello\n",
        b"\n",
        b"event: session\n",
        b'data: {"a":\n',
        b"data: 1}\n",
        b"\n",
        b"event: end\r\n",
        b"\r\n",
    ]
    assert list(client.parse_events(iter(lines))) == [("session", {"a": 1}), ("end", None)]


def test_a_stream_that_breaks_raises_what_followers_expect(platform: FakePlatform) -> None:
    event = b'event: session\ndata: {"status": "queued"}\n\n'
    platform.answers["/x"] = lambda call: Answer(chunks=[event, event[:10]], breaks=True)
    got = []
    try:
        for event_and_data in Client(Where(platform.base, TOKEN)).events("/x"):
            got.append(event_and_data)
    except client.LOST as error:
        assert isinstance(error, OSError | http.client.HTTPException)
    assert got == [("session", {"status": "queued"})]


def test_an_error_of_a_stream_is_the_platforms(platform: FakePlatform) -> None:
    def refuse(call: Call) -> Answer:
        return Answer(404, {"error": {"code": "not-found", "message": "gone", "hint": ""}})

    platform.answers["/x"] = refuse
    with pytest.raises(NsmlError, match="gone"):
        Client(Where(platform.base, TOKEN)).stream("/x")
