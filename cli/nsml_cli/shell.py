"""What every command is given: where its words go, and the platform it talks to."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nsml.core.errors import BadInput
from nsml.core.ids import printable
from nsml_cli import render

if TYPE_CHECKING:
    from nsml_cli.client import Client

CLEAR = "\x1b[H\x1b[2J"
REDRAW = 2.0  # seconds
OUTPUTS = ("table", "wide", "json", "yaml", "name", "csv")


class Shell:
    """Data goes to stdout; progress, hints and warnings to stderr; none of it has control characters."""

    def __init__(
        self, *, as_json: bool = False, no_color: bool = False, verbose: bool = False, server: str = ""
    ):
        self.json = as_json
        self.verbose = verbose
        self.server = server
        self.is_terminal = sys.stdout.isatty()
        self.color = self.is_terminal and not no_color and not os.environ.get("NO_COLOR")
        self._live = ""

    @cached_property
    def api(self) -> Client:
        """The platform; the local one is started when it does not run."""
        from nsml_cli import local, profile
        from nsml_cli.client import Client

        where = profile.remote(self.server or None)
        if where is not None:
            return Client(where)
        return Client(local.where(self.say), lambda: local.ensure(self.say), lambda: local.back(self.say))

    # -- stdout -------------------------------------------------------------------------------------
    def show(self, text: str) -> None:
        """A line of the answer."""
        self._clear()
        sys.stdout.write(printable(text) + "\n")

    def document(self, value: Any) -> None:
        """The answer as one JSON document."""
        self._clear()
        text = json.dumps(value, ensure_ascii=False, indent=2 if self.is_terminal else None)
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
        sys.stdout.buffer.flush()

    def listing(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, render.Cell],
        *,
        name: str,
        output: str = "table",
        wide: Mapping[str, render.Cell] | None = None,
    ) -> None:
        """*rows* as a table of *columns*, or in the form that was asked for; *name* is the id field."""
        if output not in OUTPUTS:
            raise BadInput(f"{output!r} is no form of output.", hint=f"Choose one of: {', '.join(OUTPUTS)}.")
        if self.json or output == "json":
            self.document(list(rows))
            return
        if output == "name":
            for row in rows:
                self.show(str(row[name]))
            return
        if output in ("csv", "yaml"):
            self.write(render.csv_lines(rows) if output == "csv" else render.yaml_lines(rows))
            return
        chosen = {**columns, **(wide or {})} if output == "wide" else columns
        cells = [[cell(row) for cell in chosen.values()] for row in rows]
        if output != "wide":
            cells = [
                [first, *(render.fit(render.cell(c), render.WIDEST) for c in rest)] for first, *rest in cells
            ]
        width = render.width() if self.is_terminal and output != "wide" else None
        self.write(render.table(list(chosen), cells, width))

    def watched(self, show: Callable[[], None], again: bool) -> None:
        """Call *show*; with *again* for ever, each time on an empty screen, until Ctrl-C."""
        if not again:
            return show()
        if not self.is_terminal or self.json:
            raise BadInput("--watch redraws a terminal, and this is none.", hint="Leave it out.")
        try:
            while True:
                sys.stdout.write(CLEAR)
                show()
                sys.stdout.flush()
                time.sleep(REDRAW)
        except KeyboardInterrupt:
            return None

    def write(self, lines: Iterable[str]) -> None:
        """Lines that `render` made: free of control characters already, but for colours."""
        self._clear()
        sys.stdout.write("".join(f"{line}\n" for line in lines))

    # -- stderr -------------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """A line of progress, a hint or a warning."""
        self._clear()
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    def detail(self, text: str) -> None:
        """A line that only `-v` shows."""
        if self.verbose:
            self.say(text)

    def live(self, text: str) -> None:
        """Where things stand: one line that changes in place; on a pipe nothing."""
        if not sys.stderr.isatty() or text == self._live:
            return
        self._clear()
        self._live = render.fit(render.cell(text), render.width() - 1)
        sys.stderr.write(self._live)
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._live:
            sys.stderr.write("\r" + " " * render.columns(self._live) + "\r")
            self._live = ""
