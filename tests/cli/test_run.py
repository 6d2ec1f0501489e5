"""What a run sends, what it prints, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_platform import Answer, Call, FakePlatform, Typing

from nsml_cli import errors

SESSION = "alice/None/1"
FOLLOW = f"/v1/sessions/{SESSION}/follow"


def event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def row(status: str, **fields: Any) -> dict[str, Any]:
    return {"session": SESSION, "status": status, "node": "n1", "run_seconds": 1.5, **fields}


@pytest.fixture
def accepts(platform: FakePlatform, nsml: Typing) -> FakePlatform:
    """A platform that takes every run, in a folder with a main.py."""
    Path("main.py").write_text("print(1)\n")
    platform.answers["/v1/commands/session.run"] = Answer(202, {"session": SESSION, "status": "queued"})
    platform.answers["/v1/commands/session.remove"] = Answer(202, {"session": SESSION, "status": "removed"})
    platform.answers["/v1/status"] = {"gpus": 4}
    ends(platform, "completed", exit_code=0)
    return platform


def ends(platform: FakePlatform, status: str, **fields: Any) -> None:
    """What is seen of the session: it waits, runs and ends so."""
    chunks = [
        event("session", row("queued", position=1, reason="1 GPU wanted")),
        event("session", row("running")),
    ]
    last = row(status, **fields)
    platform.answers[FOLLOW] = lambda call: Answer(
        chunks=[*chunks, event("session", last), event("end", last)]
    )
    platform.answers[f"/v1/sessions/{SESSION}"] = last


def sent(platform: FakePlatform) -> dict[str, Any]:
    (body,) = platform.commands("session.run")
    return body


def tree(platform: FakePlatform) -> dict[str, bytes]:
    """The files that a run sent."""
    listed = json.loads(platform.blobs[sent(platform)["code"]])
    return {file["path"]: platform.blobs[file["sha256"]] for file in listed["files"]}


def test_the_last_line_names_the_session(nsml: Typing, accepts: FakePlatform) -> None:
    done = nsml("run")
    assert done.code == 0 and done.out == f"Session {SESSION} is started\n" and "Packed 1 file" in done.err
    assert sent(accepts)["request"]["gpus"] == 1 and tree(accepts) == {"main.py": b"print(1)\n"}
    assert sent(accepts)["command"] == "nsml run"


def test_with_json_it_is_one_document(nsml: Typing, accepts: FakePlatform) -> None:
    assert nsml("run", "--json").json == {"session": SESSION, "status": "queued"}


def test_every_flag_reaches_the_platform(nsml: Typing, accepts: FakePlatform) -> None:
    words = [
        "run",
        "-d",
        "left",
        "-d",
        "right@2",
        "-g",
        "2",
        "-c",
        "1.5",
        "--memory",
        "24G",
        "--shm-size",
        "1G",
        "-n",
        "2",
        "--gpu-model",
        "A100",
        "-m",
        "memo",
        "--image",
        "im",
        "--env",
        "A=1",
        "--env",
        "B=x=y",
        "--priority",
        "-3",
        "--retries",
        "2",
        "--max-time",
        "10m",
        "--strict-env",
        "--detach",
        "-v",
    ]
    assert nsml(*words, "-a", "--x 'a b'", "--", "--y", "1").code == 0
    body = sent(accepts)
    assert body["dataset"] == ["left", "right@2"] and body["args"] == ["--x", "a b", "--y", "1"]
    wanted = {"gpus": 2, "cpus": 1.5, "memory": 24 << 30, "shm": 1 << 30, "nodes": 2, "gpu_model": "A100"}
    assert body["request"] == wanted
    assert body["env"] == {"A": "1", "B": "x=y"} and body["memo"] == "memo" and body["image"] == "im"
    assert (body["priority"], body["retries"], body["max_seconds"], body["strict_env"]) == (
        -3,
        2,
        600.0,
        True,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["-d", "x", "-g", "1", "main.py", "--", "--momentum", "0.3"],
        ["main.py", "-g", "1", "-d", "x", "--", "--momentum", "0.3"],
        ["-e", "main.py", "-d", "x", "-a", "--momentum 0.3"],
        ["-d", "x", "--", "--momentum", "0.3"],
    ],
)
def test_the_forms_of_2017_and_of_2019(words: list[str], nsml: Typing, accepts: FakePlatform) -> None:
    assert nsml("run", *words).code == 0
    assert sent(accepts)["args"] == ["--momentum", "0.3"] and sent(accepts)["entry"] == "main.py"


def test_flags_that_the_original_took_do_no_harm(nsml: Typing, accepts: FakePlatform) -> None:
    done = nsml("run", "--hide-client-log", "--no-verify", "--nfs-output", "--gpu-driver-version", "418")
    assert done.code == 0 and "no effect" in done.err and "Packed" not in done.err


def test_without_a_gpu_anywhere_the_default_is_none(nsml: Typing, accepts: FakePlatform) -> None:
    accepts.answers["/v1/status"] = {"gpus": 0}
    assert "without one" in nsml("run").err
    assert sent(accepts)["request"]["gpus"] == 0
    nsml("run", "-g", "1")
    assert accepts.commands("session.run")[1]["request"]["gpus"] == 1


def test_the_entrys_folder_is_what_is_sent(nsml: Typing, accepts: FakePlatform) -> None:
    Path("code").mkdir()
    Path("code/train.py").write_text("x")
    Path("code/.nsmlignore").write_text("*.bin\n")
    Path("code/big.bin").write_text("x")
    assert nsml("run", "-e", "code/train.py").code == 0
    assert set(tree(accepts)) == {"train.py", ".nsmlignore"} and sent(accepts)["entry"] == "train.py"


def test_the_environment_and_the_image_line(nsml: Typing, accepts: FakePlatform) -> None:
    Path("requirements.txt").write_text("#nsml: some/image:1\nnumpy\n")
    nsml("run")
    assert sent(accepts)["image"] == "some/image:1" and len(sent(accepts)["environment"]) == 64


@pytest.mark.parametrize(
    "words",
    [
        ["-e", "nothing.py"],
        ["-e", "main.py", "other.py"],
        ["--memory", "12X"],
        ["-g", "-1"],
        ["-a", "--x 'unfinished"],
        ["--env", "no-equals"],
        ["--max-time", "soon"],
        ["--timeout", "x"],
        ["-n", "0"],
    ],
)
def test_wrong_words_create_nothing(words: list[str], nsml: Typing, accepts: FakePlatform) -> None:
    assert nsml("run", *words).code == 2
    assert not accepts.calls


def test_an_entry_that_is_ignored_is_explained(nsml: Typing, accepts: FakePlatform) -> None:
    Path(".nsmlignore").write_text("main.py\n")
    done = nsml("run")
    assert done.code == 2 and "!main.py" in done.err


@pytest.mark.parametrize(
    ("status", "fields", "code"),
    [
        ("completed", {"exit_code": 0}, 0),
        ("failed", {"exit_code": 3, "cause": "error"}, 100),
        ("failed", {"exit_code": 137, "cause": "oom"}, 105),
        ("failed", {"cause": "time"}, 108),
        ("failed", {"cause": "environment"}, 100),
        ("stopped", {"cause": "stopped"}, 103),
        ("removed", {}, 103),
    ],
)
def test_waiting_ends_by_the_outcome(
    status: str, fields: dict[str, Any], code: int, nsml: Typing, accepts: FakePlatform
) -> None:
    ends(accepts, status, reason="because", **fields)
    done = nsml("run", "--wait", "--json")
    assert done.code == code
    told = done.json
    assert told["session"] == SESSION and told["status"] == status and told["reason"] == "because"
    assert told["exit_code"] == fields.get("exit_code") and told["seconds"] == 1.5


def test_the_programs_own_code_can_be_had(nsml: Typing, accepts: FakePlatform) -> None:
    ends(accepts, "failed", exit_code=3, cause="error")
    assert nsml("run", "--wait", "--propagate").code == 3
    assert errors.of_outcome(row("stopped", exit_code=143), propagate=True) == 103


def test_phases_are_lines_on_stderr(nsml: Typing, accepts: FakePlatform) -> None:
    build = event("build", {"text": "Collecting \x1b[1mnum"}) + event("build", {"text": "py\nDone"})
    last = row("completed", exit_code=0)
    placed = row("placed", phase="environment")
    chunks = [event("session", placed), build, event("session", last), event("end", last)]
    accepts.answers[FOLLOW] = lambda call: Answer(chunks=chunks)
    done = nsml("run", "--wait")
    assert "Building the environment on n1" in done.err and "\x1b" not in done.err
    assert "[1mnumpy\n" in done.err and "  Done\n" in done.err, (
        "lines are whole, whatever pieces they come in"
    )
    assert done.out == f"Session {SESSION} is started\n"


@pytest.mark.parametrize("words", [["-c", "inf"], ["--", "\udcff"]])
def test_what_no_request_can_carry_is_refused_in_words(
    nsml: Typing, accepts: FakePlatform, words: list[str]
) -> None:
    done = nsml("run", *words)
    assert done.code == 2 and "was typed" in done.err


def test_a_failed_session_says_where_its_log_is(nsml: Typing, accepts: FakePlatform) -> None:
    ends(accepts, "failed", exit_code=3, cause="error")
    assert f"'nsml logs {SESSION}'" in nsml("run", "--wait").err


def test_a_follow_that_breaks_goes_on(
    nsml: Typing, accepts: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsml_cli.follow.time.sleep", lambda seconds: None)
    last = row("completed", exit_code=0)
    streams = [
        Answer(chunks=[event("session", row("running"))], breaks=True),
        Answer(chunks=[event("session", row("running"))[:9]], breaks=True),
        Answer(chunks=[]),
        Answer(chunks=[event("end", last)]),
    ]
    accepts.answers[FOLLOW] = lambda call: streams.pop(0)
    assert nsml("run", "--wait").code == 0 and not streams


def test_a_stream_that_only_breaks_is_given_up(
    nsml: Typing, accepts: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsml_cli.follow.time.sleep", lambda seconds: None)
    accepts.answers[FOLLOW] = lambda call: Answer(chunks=[])
    assert nsml("run", "--wait").code == 111


def test_waiting_has_an_end(nsml: Typing, accepts: FakePlatform) -> None:
    accepts.answers[FOLLOW] = lambda call: Answer(chunks=[event("session", row("running"))])
    accepts.answers[f"/v1/sessions/{SESSION}"] = row("running")
    done = nsml("run", "--wait", "--timeout", "0.3s", "--json")
    assert done.code == 101 and done.json["status"] == "running"


def test_no_queue_is_turned_away(nsml: Typing, accepts: FakePlatform) -> None:
    gone = {"session": SESSION, "status": "removed", "reason": "1 GPU wanted, none is free"}
    accepts.answers[FOLLOW] = lambda call: Answer(chunks=[event("session", gone), event("end", gone)])
    done = nsml("run", "--no-queue")
    assert done.code == 112 and "none is free" in done.err and not done.out
    ends(accepts, "completed", exit_code=0)
    assert nsml("run", "--no-queue").out.endswith("is started\n")


def test_interactive_shows_the_log_and_removes(nsml: Typing, accepts: FakePlatform) -> None:
    log = Answer(chunks=[b"one\n", b"two\n"], headers={"X-Log-Offset": "0", "X-Log-Size": "8"})
    accepts.answers[f"/v1/sessions/{SESSION}/log"] = log
    done = nsml("run", "-i")
    assert done.code == 0 and done.out == f"Session {SESSION} is started\none\ntwo\n"
    assert accepts.commands("session.remove") == [{"session": SESSION, "force": True}]


def test_ctrl_c_leaves_the_session_alone(
    nsml: Typing, accepts: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nsml_cli.follow._Watch.read", interrupt)
    assert "nsml rm -f" in nsml("run", "-i").err, "nobody is there any more to remove it at its end"
    done = nsml("run", "--wait")
    assert done.code == 130 and f"nsml logs -f {SESSION}" in done.err
    assert not accepts.commands("session.stop")


def test_a_dry_run_asks_and_creates_nothing(nsml: Typing, accepts: FakePlatform) -> None:
    accepts.answers["/v1/plan"] = {"fits": True, "node": "n1", "reason": "", "session_would_be": SESSION}
    done = nsml("run", "--dry-run")
    assert "main.py" in done.out and "n1" in done.out and not accepts.commands("session.run")
    assert nsml("run", "--dry-run", "--json").json["files"] == ["main.py"]


def test_what_is_printed_and_exits(nsml: Typing, accepts: FakePlatform) -> None:
    assert ".git/" in nsml("run", "--show-default-nsmlignore").out.splitlines()
    assert nsml("run", "--show-limits", "--json").json == {"files": 100, "bytes": 50 << 20}
    assert not accepts.calls


def test_resume(nsml: Typing, accepts: FakePlatform) -> None:
    def resumed(call: Call) -> Answer:
        return Answer(202, {"session": SESSION, "status": "queued"})

    accepts.answers["/v1/commands/session.resume"] = resumed
    assert nsml("resume", SESSION).code == 0
    assert nsml("resume", "-c", "best", SESSION, "--wait", "--json").json["status"] == "completed"
    assert accepts.commands("session.resume") == [
        {"session": SESSION},
        {"session": SESSION, "iteration": "best"},
    ]
