"""Listing, stopping, removing, describing and explaining sessions."""

from __future__ import annotations

from typing import Any

import pytest
from fake_platform import Answer, Call, FakePlatform, Typing

from nsml.core.session import ENDED as PLATFORMS_ENDED
from nsml_cli import follow
from nsml_cli.commands import sessions


def row(session: str, status: str = "completed", **fields: Any) -> dict[str, Any]:
    base = {"session": session, "status": status, "type": "normal", "created": "2026-01-31T12:00:00+00:00"}
    return {**base, "args": "", "summary": {}, "description": "", "models": 0, **fields}


@pytest.fixture
def rows(platform: FakePlatform) -> list[dict[str, Any]]:
    made = [
        row("alice/mnist/2", "running", summary={"train/loss": 0.2}, models=3),
        row("alice/None/1", args="--x 1"),
    ]
    platform.answers["/v1/sessions"] = made
    for one in made:
        platform.answers[f"/v1/sessions/{one['session']}"] = one
    refused = {"error": {"code": "refused", "message": "it runs", "hint": "Type 'nsml rm -f'."}}

    def remove(call: Call) -> Answer:
        body = call.json["body"]
        runs = body["session"] == "alice/mnist/2" and not body["force"]
        return (
            Answer(409, refused) if runs else Answer(202, {"session": body["session"], "status": "removed"})
        )

    platform.answers["/v1/commands/session.remove"] = remove
    platform.answers["/v1/commands/session.stop"] = {"session": "alice/mnist/2", "status": "stopping"}
    return made


def test_the_table_has_the_originals_columns(nsml: Typing, rows: list[Any]) -> None:
    lines = nsml("ps", "-a").out.splitlines()
    header = ["Name", "Created", "Args", "Status", "Summary", "Description", "# of Models", "Size", "Type"]
    assert [word.strip() for word in lines[0].split("  ") if word.strip()] == header
    assert lines[2].startswith("alice/mnist/2 ") and "train/loss=0.2" in lines[2]
    assert "Not created yet" in lines[3] and "--x 1" in lines[3]


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ([], {}),
        (["-a"], {"all": "1"}),
        (["-n", "5"], {"all": "1", "limit": "5"}),
        (["-d", "mnist"], {"dataset": "mnist"}),
        (["-s", "mnist/1"], {"name": "mnist/1"}),
        (["-s", "mni"], {"name": "*mni*"}),
        (["-a", "-s", "*/mnist/*"], {"all": "1", "name": "*/mnist/*"}),
    ],
)
def test_the_options_ask_for_fewer(
    words: list[str], query: dict[str, str], nsml: Typing, platform: FakePlatform, rows: list[Any]
) -> None:
    nsml("ps", *words)
    assert platform.calls[-1].query == query


def test_the_forms_of_output(nsml: Typing, rows: list[Any]) -> None:
    assert nsml("ps", "-q").out == "alice/mnist/2\nalice/None/1\n" == nsml("ps", "-o", "name").out
    assert nsml("ps", "--json").json == rows == nsml("ps", "-o", "json").json == nsml("ls", "-j").json
    assert "Reason" in nsml("ps", "-o", "wide").out and "Reason" in nsml("ps", "-v").out
    assert nsml("ps", "-o", "csv").out.startswith("session,status,")
    assert nsml("ps", "-o", "yaml").out.startswith('- "session": "alice/mnist/2"\n  "status"')
    assert nsml("ps", "-o", "yml").code == 2


def test_nothing_is_an_empty_list(nsml: Typing, platform: FakePlatform) -> None:
    platform.answers["/v1/sessions"] = []
    assert nsml("ps", "--json").json == [] and nsml("ps").code == 0


def test_escape_codes_of_a_memo_do_not_reach_the_terminal(nsml: Typing, platform: FakePlatform) -> None:
    platform.answers["/v1/sessions"] = [row("a/b/1", description="x\x1b[31m\ny", args="a\x07")]
    for words in ([], ["-o", "csv"], ["-v"]):
        assert not {"\x1b", "\x07"} & set(nsml("ps", *words).out)


def test_stopping_several(nsml: Typing, platform: FakePlatform, rows: list[Any]) -> None:
    done = nsml("stop", "--now", "alice/mnist/2", "alice/None/1")
    assert done.code == 0 and "ended already" in done.err
    assert platform.commands("session.stop") == [{"session": "alice/mnist/2", "now": True}]


def test_an_unknown_session_does_not_spare_the_others(
    nsml: Typing, platform: FakePlatform, rows: list[Any]
) -> None:
    done = nsml("cancel", "alice/mnist/99", "alice/mnist/2")
    assert done.code == 102 and "99" in done.err
    assert len(platform.commands("session.stop")) == 1
    assert nsml("stop", "alice/mnist/99").code == 102


def test_patterns_remove_what_they_fit(nsml: Typing, platform: FakePlatform, rows: list[Any]) -> None:
    assert nsml("rm", "alice/None/*").code == 0
    assert platform.commands("session.remove") == [{"session": "alice/None/1", "force": False}]
    done = nsml("rm", "*", "alice/None/1")
    assert done.code == 1 and "it runs" in done.err
    assert [body["session"] for body in platform.commands("session.remove")[1:]] == [
        "alice/mnist/2",
        "alice/None/1",
    ]
    assert nsml("rm", "-f", "*").code == 0
    assert nsml("rm", "None/*").code == 0, "as with full names, the owner may be left out"
    assert nsml("rm", "bob/*").code == 102


def test_a_memo_is_kept_as_typed(nsml: Typing, platform: FakePlatform, rows: list[Any]) -> None:
    platform.answers["/v1/commands/session.note"] = {"session": "alice/None/1"}
    assert nsml("memo", "alice/None/1", "two", "words").code == 0
    assert platform.commands("session.note") == [{"session": "alice/None/1", "memo": "two words"}]
    assert nsml("memo", "alice/None/1").code == 2


def test_the_command_as_it_was_typed_or_rebuilt(
    nsml: Typing, platform: FakePlatform, rows: list[Any]
) -> None:
    rows[0]["run"] = {"command": "nsml run -a '--x 1'"}
    assert nsml("command", "alice/mnist/2").out == "nsml run -a '--x 1'\n"
    datasets = [{"name": "mnist", "version": 2}]
    rows[0]["run"] = {"entry": "t.py", "request": {"gpus": 2}, "args": ["--x", "a b"], "datasets": datasets}
    assert nsml("command", "alice/mnist/2").out == "nsml run -e t.py -g 2 -d mnist@2 -- --x 'a b'\n"


def test_why(nsml: Typing, platform: FakePlatform) -> None:
    told = {
        "session": "a/b/1",
        "reason": "2 GPUs wanted, n1 has 1 free",
        "nearest": "with 1 GPU instead of 2",
    }
    platform.answers["/v1/sessions/a/b/1/why"] = told
    assert nsml("why", "a/b/1", "--json").json == told


@pytest.mark.parametrize(
    ("reason", "nearest", "said"),
    [
        ("2 GPUs wanted, n1 has 1 free", "with 1 GPU instead of 2",
         "It waits: 2 GPUs wanted, n1 has 1 free.\nIt would start now with 1 GPU instead of 2.\n"),
        ("n1 is drained", "when a/b/2 ends", "It waits: n1 is drained.\nIt would start when a/b/2 ends.\n"),
        ("It waits for nothing: it completed.", None, "It waits for nothing: it completed.\n"),
    ],
)  # fmt: skip
def test_why_is_said_in_sentences(
    reason: str, nearest: str | None, said: str, nsml: Typing, platform: FakePlatform
) -> None:
    told = {"session": "a/b/1", "reason": reason, "nearest": nearest}
    platform.answers["/v1/sessions/a/b/1/why"] = told
    assert nsml("why", "a/b/1").out == said


def test_watching_needs_a_terminal(nsml: Typing, rows: list[Any]) -> None:
    done = nsml("ps", "-w")
    assert done.code == 2 and "terminal" in done.err


def test_we_and_the_platform_mean_the_same_by_ended() -> None:
    assert (
        set(follow.ENDED) == {state.value for state in PLATFORMS_ENDED} | {"removed"} == set(sessions.ENDED)
    )
