"""What stays at home is what git would leave out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nsml_cli.ignore import Ignore

PATHS = [
    "main.py",
    "a.bin",
    "keep.bin",
    "scratch/a",
    "scratch/b/c",
    "mod/__init__.py",
    "mod/data.bin",
    "mod/deep/data.bin",
    "x/scratch/y",
    "doc/a.txt",
    "doc/b/a.txt",
    "doc/b/c/a.txt",
    "file[1].txt",
    "file1.txt",
    "#hash",
    "!bang",
    "tail",
    "",
    "a/b/c",
    "a/x/b",
    "b.log",
    "deep/b.log",
]
PATTERNS = [
    "*.bin",
    "*.bin\n!keep.bin",
    "scratch/",
    "/scratch",
    "scratch/*\n!scratch/a",
    "mod/data.bin",
    "mod/**/data.bin",
    "**/data.bin",
    "**/scratch",
    "doc/*.txt",
    "doc/**",
    "doc/b/**/a.txt",
    "a/**/b",
    "?.bin",
    "file[0-9].txt",
    "file[!0-9].txt",
    "file\\[1\\].txt",
    "\\#hash",
    "\\!bang",
    "# a comment\n\n*.log",
    "*.log   ",
    "*",
    "*\n!*.py",
    "/*\n!/mod/\n/mod/*\n!/mod/__init__.py",
    "mod\n!mod/data.bin",
    "deep/",
    "b",
    "[",
]


@pytest.mark.parametrize("patterns", PATTERNS)
def test_the_rules_are_gits(patterns: str, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    paths = [path for path in PATHS if path]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(patterns + "\n")
    done = subprocess.run(
        [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "core.excludesFile=",
            "check-ignore",
            "--no-index",
            "--stdin",
            "-z",
        ],
        input="\0".join(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    theirs = {path for path in done.stdout.split("\0") if path}
    assert {path for path in paths if _dropped(Ignore(patterns.splitlines(), ()), path)} == theirs


def _dropped(ignore: Ignore, path: str) -> bool:
    """Whether walking down to *path* meets something that is dropped."""
    parts = path.split("/")
    folders = ["/".join(parts[:at]) for at in range(1, len(parts))]
    return any(ignore.drops(folder, True) for folder in folders) or ignore.drops(path, False)


@pytest.mark.parametrize(
    "path", ["lib.so", "mod/x.pyc", "__pycache__/a.py", ".git/config", "node_modules/m/i.js"]
)
def test_what_no_session_needs_stays_at_home(path: str) -> None:
    assert _dropped(Ignore(), path)


def test_a_line_brings_back_what_we_leave_out() -> None:
    assert not _dropped(Ignore(["!fast.so"]), "fast.so")
    assert _dropped(Ignore(["!fast.so"]), "slow.so")


def test_dotfiles_that_code_may_read_are_sent() -> None:
    assert not _dropped(Ignore(), ".config.json")
