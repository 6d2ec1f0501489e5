"""A log is shown byte for byte, once, over broken connections too."""

from __future__ import annotations

import pytest
from fake_platform import Answer, Call, FakePlatform, Typing

SESSION = "a/b/1"
PATH = f"/v1/sessions/{SESSION}"
LOG = b"line 1\nline 2\n\xff\x00\x1b[31mline 3\n"


@pytest.fixture
def logged(platform: FakePlatform, nsml: Typing, monkeypatch: pytest.MonkeyPatch) -> FakePlatform:
    monkeypatch.setattr("nsml_cli.follow.time.sleep", lambda seconds: None)
    platform.answers[PATH] = {"session": SESSION, "status": "completed"}
    platform.answers[f"{PATH}/log"] = lambda call: piece(call, len(LOG))
    return platform


def piece(call: Call, most: int, breaks: bool = False) -> Answer:
    """At most *most* bytes of the log from the offset that was asked for."""
    start = int(call.query.get("offset", len(LOG) - 9 if "tail" in call.query else 0))
    headers = {"X-Log-Size": str(len(LOG)), "X-Log-Offset": str(start)}
    return Answer(chunks=[LOG[start : start + most]], headers=headers, breaks=breaks)


def test_the_log_is_shown_as_it_is(nsml: Typing, logged: FakePlatform) -> None:
    done = nsml("logs", SESSION)
    assert done.code == 0 and done.raw == LOG
    assert logged.calls[-1].query == {}


def test_the_wishes_reach_the_platform(nsml: Typing, logged: FakePlatform) -> None:
    nsml("logs", "--tail", "3", "--since", "2026-01-31T12:00:00+00:00", "--stream", "stderr", SESSION)
    assert logged.calls[-1].query == {"tail": "3", "since": "1769860800.0", "stream": "stderr"}
    for wrong in (["--stream", "x"], ["--since", "x"], ["--tail", "-1"]):
        assert nsml("logs", *wrong, SESSION).code == 2


@pytest.mark.parametrize("words", [[], ["--stream", "stdout"]])
def test_a_broken_connection_neither_loses_nor_repeats(
    words: list[str], nsml: Typing, logged: FakePlatform
) -> None:
    asked: list[int] = []

    def breaking(call: Call) -> Answer:
        asked.append(int(call.query.get("offset", 0)))
        done = len(asked) >= 5
        return piece(call, len(LOG) if done else len(asked) * 5, breaks=not done)

    logged.answers[f"{PATH}/log"] = breaking
    done = nsml("logs", "-f", *words, SESSION)
    assert done.code == 0 and done.raw == LOG
    assert asked[1:3] == ([5, 15] if not words else [0, 0])


def test_after_a_tail_it_goes_on_from_there(nsml: Typing, logged: FakePlatform) -> None:
    first = True

    def breaking(call: Call) -> Answer:
        nonlocal first
        answer = piece(call, 3 if first else len(LOG), breaks=first)
        first = False
        return answer

    logged.answers[f"{PATH}/log"] = breaking
    assert nsml("logs", "-f", "--tail", "1", SESSION).raw == LOG[-9:]


def test_a_queued_session_has_no_log_but_a_reason(nsml: Typing, logged: FakePlatform) -> None:
    waits = {"session": SESSION, "status": "queued", "position": 2, "reason": "1 GPU wanted, n1 has 0 free"}
    logged.answers[PATH] = waits
    logged.answers[f"{PATH}/log"] = Answer(chunks=[], headers={"X-Log-Size": "0", "X-Log-Offset": "0"})
    done = nsml("logs", SESSION)
    assert done.code == 0 and not done.out and "1 GPU wanted" in done.err


def test_an_unknown_session_is_102(nsml: Typing, logged: FakePlatform) -> None:
    assert nsml("logs", "a/b/9").code == 102
    assert nsml("logs", "-f", "a/b/9", "--json").json["error"]["code"] == "not-found"


def test_ctrl_c_detaches(nsml: Typing, logged: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nsml_cli.follow._LogReader.read", interrupt)
    done = nsml("logs", "-f", SESSION)
    assert done.code == 130 and "Detached" in done.err


def test_as_json_it_is_one_document(nsml: Typing, logged: FakePlatform) -> None:
    assert nsml("logs", SESSION, "--json").json["log"].startswith("line 1\n")
