"""What people type is read as they mean it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nsml.core.errors import BadInput
from nsml_cli import typed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--lr 0.1 --name 'a b'", ["--lr", "0.1", "--name", "a b"]),
        ("--x 1 \\\n --y 2\n--z 3", ["--x", "1", "--y", "2", "--z", "3"]),
        ("--long\\\nname", ["--longname"]),
        ("'kept \\\nas typed'", ["kept \\\nas typed"]),
        ('"it\'s" a', ["it's", "a"]),
        ("--x \\\r\n 1", ["--x", "1"]),
        ("# no comment", ["#", "no", "comment"]),
        ("", []),
    ],
)
def test_arguments_are_split_as_in_a_shell(text: str, words: list[str]) -> None:
    assert typed.arguments(text) == words


@pytest.mark.parametrize("text", ["--x 'unfinished", '"', "ends with \\"])
def test_broken_quoting_is_explained(text: str) -> None:
    with pytest.raises(BadInput):
        typed.arguments(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("90", 90), ("1.5 h", 5400), ("1d", 86400)]
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert typed.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 x", "10 m!", "1e5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        typed.duration(text)


def test_variables() -> None:
    assert typed.variables(["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}
    for wrong in ("A", "=1", "1A=2", "A B=1"):
        with pytest.raises(BadInput):
            typed.variables([wrong])


def test_the_entrys_folder_is_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert typed.entry_of("code/train.py") == (tmp_path / "code", "train.py")
    for missing in ("other.py", "code", ""):
        with pytest.raises(BadInput):
            typed.entry_of(missing)


@pytest.mark.parametrize("line", ["#nsml: a/b:1", "#nsml:a/b:1", "# nsml: a/b:1", "\n#nsml: a/b:1"])
def test_the_image_line_in_its_spellings(line: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"{line}\nnumpy\n")
    assert typed.image_of(tmp_path) == "a/b:1"


def test_setup_comes_before_requirements(tmp_path: Path) -> None:
    assert typed.image_of(tmp_path) == ""
    (tmp_path / "requirements.txt").write_text("#nsml: second\n")
    (tmp_path / "setup.py").write_text("#nsml: first\n")
    assert typed.image_of(tmp_path) == "first"


def test_the_environment_is_what_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("1")
    assert typed.environment(tmp_path, ["main.py"], "") == ""
    (tmp_path / "requirements.txt").write_text("numpy\n")
    first = typed.environment(tmp_path, ["main.py", "requirements.txt"], "")
    assert len(first) == 64 and first == typed.environment(tmp_path, ["requirements.txt"], "")
    assert typed.environment(tmp_path, ["requirements.txt"], "image") != first
    (tmp_path / "requirements.txt").write_text("numpy==2\n")
    assert typed.environment(tmp_path, ["requirements.txt"], "") != first


def test_the_command_can_be_typed_again() -> None:
    assert typed.command(["run", "-a", "--x 1"]) == "nsml run -a '--x 1'"
    assert typed.command(["run", "-a", "--x 'a b'"]) == """nsml run -a "--x 'a b'\""""


@pytest.mark.parametrize("word", ["it's", "a\tb\nc", "'$x' \"`\\!", "\x1b[31m\udcff'\\", "한글 'x'", "", "*"])
def test_a_shell_reads_a_command_as_it_was_typed(word: str) -> None:
    script = typed.command([word]).replace("nsml", "printf %s", 1)
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert said == word.encode("utf-8", "surrogateescape")
