"""Which files of a folder stay at home: `.nsmlignore` in gitignore's syntax, after a list of our own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FILE = ".nsmlignore"

# What no session needs; a line `!PATTERN` in .nsmlignore brings it back.
BUILT_IN = (
    ".git/",
    ".hg/",
    ".svn/",
    ".nsml/",
    "__pycache__/",
    "*.pyc",
    "*.pyo",
    "*.so",
    "*.egg-info/",
    ".venv/",
    "venv/",
    "virtualenv/",
    "node_modules/",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".idea/",
    ".vscode/",
    ".DS_Store",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: what it matches, whether it brings back (`!`), whether it means folders only."""

    matches: re.Pattern[str]
    keeps: bool
    only_folders: bool


class Ignore:
    """Answers whether a path stays at home. The last rule that matches decides; what is below an ignored
    folder is never asked for, so it cannot be brought back, as with git."""

    def __init__(self, lines: Iterable[str] = (), built_in: Sequence[str] = BUILT_IN) -> None:
        parsed = (parse(line) for line in (*built_in, *lines))
        self._rules = [rule for rule in parsed if rule is not None][::-1]

    def drops(self, path: str, is_folder: bool) -> bool:
        """Whether *path* (relative, with `/`) stays at home."""
        for rule in self._rules:
            if (is_folder or not rule.only_folders) and rule.matches.fullmatch(path):
                return not rule.keeps
        return False


def parse(line: str) -> Rule | None:
    """The rule of one line; None for an empty one or a comment."""
    line = re.sub(r"(?<!\\) +$", "", line.rstrip("\r\n"))
    if not line or line.startswith("#"):
        return None
    keeps = line.startswith("!")
    pattern = line[1:] if keeps else line
    only_folders = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    anchored = "/" in pattern
    pattern = pattern.lstrip("/")
    if not pattern:
        return None
    start = "" if anchored else "(?:.*/)?"
    try:
        return Rule(re.compile(start + _regex(pattern), re.DOTALL), keeps, only_folders)
    except re.error:  # a broken [set]: as with git, it matches nothing
        return None


def _regex(pattern: str) -> str:
    """A gitignore pattern as a regular expression over the whole path."""
    made, at = "", 0
    while at < len(pattern):
        for token, regex in _WORDS:
            if pattern.startswith(token, at) and (token != "**/" or at == 0 or pattern[at - 1] == "/"):
                made, at = made + regex, at + len(token)
                break
        else:
            piece, at = _letter(pattern, at)
            made += piece
    return made


_WORDS = (("/**/", "/(?:.*/)?"), ("**/", "(?:.*/)?"), ("/**", "/.+"), ("*", "[^/]*"), ("?", "[^/]"))


def _letter(pattern: str, at: int) -> tuple[str, int]:
    letter = pattern[at]
    if letter == "\\" and at + 1 < len(pattern):
        return re.escape(pattern[at + 1]), at + 2
    found = re.compile(r"\[(!|\^)?(\]?[^\]]*)\]").match(pattern, at) if letter == "[" else None
    if found is None:
        return re.escape(letter), at + 1
    inside = found[2].replace("\\", "\\\\").replace("[", "\\[")
    inside = "\\]" + inside[1:] if inside.startswith("]") else inside
    return f"(?!/)[{'^' if found[1] else ''}{inside}]", found.end()
