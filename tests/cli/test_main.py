"""The program as a whole: help, unknown words, errors, start-up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_platform import Answer, FakePlatform, Typing

from nsml_cli import main
from nsml_cli.loader import LazyGroup


def every_command() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, entry in main.Root.table.items():
        found += [(name, sub) for sub in entry.group.table] if entry.group else [(name,)]
    return found


@pytest.mark.parametrize("words", [*every_command(), ("model",), ("dataset",), ("node",)])
def test_every_command_has_help_with_an_example(words: tuple[str, ...], nsml: Typing) -> None:
    done = nsml(*words, "--help")
    assert done.code == 0
    assert "Example:" in done.out and "$ nsml " in done.out and "--json" in done.out


@pytest.mark.parametrize("group", [main.Root, main.ModelGroup, main.DatasetGroup, main.NodeGroup])
def test_the_tables_name_functions_that_are_there(group: type[LazyGroup]) -> None:
    import importlib

    for entry in group.table.values():
        if entry.group is None:
            assert callable(
                getattr(importlib.import_module(f"nsml_cli.commands.{entry.module}"), entry.function)
            )


def test_help_lists_every_command_at_the_start_of_a_line(nsml: Typing) -> None:
    listing = nsml("--help").out
    for name, entry in main.Root.table.items():
        assert bool(re.search(rf"(?m)^\W*{name}\b", listing)) == bool(entry.section)


def test_without_words_it_shows_help(nsml: Typing) -> None:
    assert "Sessions:" in nsml().out
    assert "push" in nsml("dataset").out


def test_the_version(nsml: Typing) -> None:
    assert re.match(r"nsml \d+\.\d+", nsml("--version").out)


def test_an_unknown_command_gets_the_nearest_one(nsml: Typing) -> None:
    done = nsml("pss")
    assert done.code == 2 and "nsml ps" in done.err and not done.out
    assert nsml("dataset", "psh").code == 2


@pytest.mark.parametrize(
    "words", [("ps", "--bogus"), ("logs",), ("ps", "-n", "x"), ("--bogus",), ("run", "a", "b")]
)
def test_wrong_usage_is_2_in_a_sentence(words: tuple[str, ...], nsml: Typing) -> None:
    done = nsml(*words)
    assert done.code == 2 and done.err.startswith("Error: ") and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "-g", "x"), "--gpus x is not a whole number from 0."),
        (("run", "-g", "-1"), "--gpus -1 is not a whole number from 0."),
        (("run", "-c", "nan"), "--cpus nan is not a number from 0."),
        (("plot", "1", "--height", "200"), "--height 200 is not a whole number from 8 up to 100."),
    ],
)
def test_a_wrong_number_is_said_in_our_words(words: tuple[str, ...], said: str, nsml: Typing) -> None:
    done = nsml(*words)
    assert done.code == 2 and done.err.startswith(f"Error: {said}\n") and "--help" in done.err


def test_help_has_no_words_of_python(nsml: Typing) -> None:
    for words in [(), *every_command()]:
        text = nsml(*words, "--help").out
        assert not re.search(r"<\w+|list\[|\.\.\.\.|\}\.\.\.", text), text


def test_wrong_usage_with_json_is_one_document(nsml: Typing) -> None:
    done = nsml("ps", "--bogus", "--json")
    assert done.code == 2 and done.json["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(404, "not-found", 102), (400, "bad-input", 2), (409, "ambiguous", 2), (403, "not-allowed", 110),
     (422, "never-fits", 107), (409, "no-room", 112), (409, "refused", 1), (413, "too-large", 2),
     (503, "unavailable", 111), (500, "something new", 1), (401, "no-token", 110)],
)  # fmt: skip
def test_what_the_platform_refuses_becomes_an_exit_code(
    status: int, code: str, exit_code: int, nsml: Typing, platform: FakePlatform
) -> None:
    error = {"code": code, "message": "It is so.", "hint": "Do that."}
    platform.answers["/v1/nodes"] = Answer(status, {"error": error})
    done = nsml("node", "ls")
    assert done.code == exit_code and done.err.startswith("Error: ") and not done.out
    told = nsml("node", "ls", "--json")
    assert told.code == exit_code and {"code", "message", "hint"} == set(told.json["error"]) and not told.err


def test_an_answer_that_is_not_ours_is_explained(nsml: Typing, platform: FakePlatform) -> None:
    platform.answers["/v1/nodes"] = Answer(chunks=[b"<html>"])
    assert "not JSON" in nsml("node", "ls").err
    platform.answers["/v1/nodes"] = Answer(502, chunks=[b"<html>bad gateway"])
    assert "502" in nsml("node", "ls").err


@pytest.mark.parametrize("place", ["before", "after"])
def test_options_of_all_commands_stand_anywhere(place: str, nsml: Typing, platform: FakePlatform) -> None:
    platform.answers["/v1/nodes"] = []
    words = ["--json", "-v", "--no-color"]
    done = nsml(*words, "node", "ls") if place == "before" else nsml("node", "ls", *words)
    assert done.code == 0 and done.json == []


def test_the_server_can_be_named(
    nsml: Typing, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.answers["/v1/nodes"] = []
    monkeypatch.delenv("NSML_SERVER")
    assert nsml("--server", platform.base, "node", "ls", "-j").json == []
    assert nsml("node", "ls", "--server", platform.base.removeprefix("http://"), "-j").json == []
    assert nsml("node", "ls", "--server", "ftp://x").code == 2


def test_a_profile_names_the_server(
    nsml: Typing, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    platform.answers["/v1/nodes"] = []
    monkeypatch.delenv("NSML_SERVER")
    monkeypatch.delenv("NSML_TOKEN")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "nsml").mkdir()
    (tmp_path / "nsml" / "profile.toml").write_text(f'server = "{platform.base}"\ntoken = "nsml_test"\n')
    assert nsml("node", "ls", "-j").json == []


def test_a_server_that_is_away_is_111(nsml: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSML_SERVER", "http://127.0.0.1:9")
    done = nsml("node", "ls")
    assert done.code == 111 and "127.0.0.1:9" in done.err


def test_an_answer_that_breaks_off_is_111(nsml: Typing, platform: FakePlatform) -> None:
    platform.answers["/v1/sessions/a/b/1/log"] = Answer(chunks=[b"half"], breaks=True)
    done = nsml("logs", "a/b/1")
    assert done.code == 111 and "broke" in done.err


def test_tracebacks_are_for_debug_only(nsml: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(main, "_dispatch", fail)
    assert "Traceback" not in nsml("ps").err and nsml("ps").code == 1
    assert "Traceback" in nsml("ps", "--debug").err


def test_ctrl_c_is_130(nsml: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_dispatch", interrupted)
    assert nsml("ps").code == 130


def test_a_reader_that_leaves_is_no_error(platform: FakePlatform, tmp_path: Path) -> None:
    platform.answers["/v1/datasets/d"] = {
        "tree": platform.add_tree({f"train/{i:06}": b"" for i in range(20_000)})
    }
    script = f"{sys.executable} -m nsml_cli.main dataset fs d | head -n 1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "NSML_SERVER": platform.base, "NSML_TOKEN": "nsml_test", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0" and not done.stderr


def test_a_start_imports_nothing_heavy() -> None:
    script = (
        "import sys; from nsml_cli.main import run; run(['ps', '--server', 'http://127.0.0.1:1']);"
        "heavy = {'aiohttp', 'rich', 'obstore', 'asyncio', 'orjson', 'numpy', 'pydantic', 'concurrent'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_imports_no_command() -> None:
    script = (
        "import sys; from nsml_cli.main import run; run(['--help']);"
        "sys.exit(str([m for m in sys.modules if m.startswith('nsml_cli.commands.')] or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
