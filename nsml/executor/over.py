"""Attempts that must never start again on this node: they were reaped, or stopped before they came."""

from __future__ import annotations

from pathlib import Path

Name = tuple[str, int]  # (session, attempt)

MOST = 20_000  # remembered; a copy of an order that comes 20,000 attempts late does not come


class Over:
    """A list that only grows, one `SESSION ATTEMPT` a line, shortened when the node starts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.names: set[Name] = set()

    def read(self) -> None:
        """Take up what a former process wrote."""
        if not self._path.exists():
            return
        lines = [line.split() for line in self._path.read_text(errors="replace").splitlines()]
        names = [(words[0], int(words[1])) for words in lines if len(words) == 2 and words[1].isdigit()]
        if len(names) > MOST:
            names = names[-MOST // 2 :]
            shorter = self._path.with_suffix(".new")
            shorter.write_text("".join(f"{session} {attempt}\n" for session, attempt in names))
            shorter.replace(self._path)
        self.names = set(names)

    def add(self, name: Name) -> None:
        if name in self.names:
            return
        with self._path.open("a") as file:
            file.write(f"{name[0]} {name[1]}\n")
        self.names.add(name)
