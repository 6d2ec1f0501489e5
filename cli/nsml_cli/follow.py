"""Following a session: phases on stderr, its log on stdout, over broken connections; Ctrl-C detaches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from textwrap import indent
from typing import Any

from nsml.core.errors import NotFound, Unavailable
from nsml_cli import render
from nsml_cli.client import LOST, STREAM_SECONDS, path_of
from nsml_cli.shell import Shell

ENDED = ("completed", "failed", "stopped", "removed")
WAITS = ("queued", "placed")
PIECE = 1 << 16
BROKEN_MOST = (
    5  # streams in a row that break without a byte; then something is wrong that patience does not mend
)

Row = dict[str, Any]


class Detached(Exception):
    """Ctrl-C: the session goes on without being followed."""


def follow(
    shell: Shell, session: str, until: Callable[[Row], bool], timeout: float | None = None
) -> Row | None:
    """Show the phases of *session* until *until* holds for its row, or it ended and all is recorded.

    The row of then; None after *timeout* seconds. Raises `Detached` on Ctrl-C.
    """
    watch = _Watch(shell, session, until, timeout)
    try:
        while not watch.is_over:
            watch.read()
    except KeyboardInterrupt:
        raise Detached(session) from None
    return watch.row if watch.found else None


class _Watch:
    """What following a session knows from one broken connection to the next."""

    def __init__(
        self, shell: Shell, session: str, until: Callable[[Row], bool], timeout: float | None
    ) -> None:
        self._api = shell.api
        self._phases = Phases(shell)
        self._path = path_of(session, "/follow")
        self._until = until
        self._deadline = time.monotonic() + timeout if timeout else None
        self._patience = Patience(shell.api.base)
        self.row: Row = {"session": session}
        self.found = False
        self.is_over = False

    def read(self) -> None:
        """Take events until it is over or the stream ends."""
        try:
            for event, data in self._api.events(self._path, self._left()):
                self._patience.reset()
                self._take(event, data)
                if self.is_over:
                    return
        except TimeoutError:
            self._patience.reset()  # silent, not broken
        except LOST:
            pass
        except NotFound:
            self.row = {**self.row, "status": "removed"}
            self.found = self.is_over = True
            return
        self._check_time()
        if not self.is_over:
            self._patience.wait()

    def _take(self, event: str, data: Any) -> None:
        self.row = self._phases.note(event, data, self.row)
        status = self.row.get("status")
        if event == "end" or (event == "session" and status not in ENDED and self._until(self.row)):
            self.found = self.is_over = True
        else:
            self._check_time()

    def _left(self) -> float:
        if self._deadline is None:
            return STREAM_SECONDS
        return min(STREAM_SECONDS, max(0.01, self._deadline - time.monotonic()))

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.is_over = True


class Patience:
    """Waits a little longer after each stream that broke, and gives up when they break without a word."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._broken = 0

    def reset(self) -> None:
        self._broken = 0

    def wait(self) -> None:
        self._broken += 1
        if self._broken > BROKEN_MOST:
            raise Unavailable(
                f"The stream from {self._base} breaks again and again.", hint="See 'nsml status'."
            )
        time.sleep(min(0.1 * 2**self._broken, 2.0))


class Phases:
    """One line for each change of what a session is doing; on a terminal the waiting changes in place."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._last = ""
        self._began = time.monotonic()
        self._cut = ""  # what came of a build's line so far

    def note(self, event: str, data: Any, row: Row) -> Row:
        """Take one event; the row it leaves."""
        if event == "build":
            self._tell_build(str(data.get("text", "")))
            return row
        if event not in ("session", "end") or not isinstance(data, dict):
            return row
        if event == "end" and self._cut:
            self._tell_build("\n")
        words = sentence(data)
        if words and words != self._last:
            self._last = words
            self._tell(words, data)
        return {**row, **data}

    def _tell_build(self, text: str) -> None:
        """Show the lines of *text* that are whole, and keep the rest until more comes."""
        whole, _, rest = (self._cut + text).rpartition("\n")
        self._cut = rest
        if whole.strip("\n"):
            self._shell.say(indent(whole.strip("\n"), "  "))

    def _tell(self, words: str, row: Row) -> None:
        if row.get("status") == "queued" and sys.stderr.isatty():
            self._shell.live(words)
        else:
            self._shell.say(f"{words} ({render.duration(round(time.monotonic() - self._began, 1))})")


def sentence(row: Row) -> str:
    """What a session is doing, in a few words."""
    status, phase, detail = row.get("status"), row.get("phase") or "", row.get("detail") or ""
    if status == "queued":
        if not row.get("position"):
            return "Queued"
        return f"Waiting, number {row['position']} in the queue: {row.get('reason') or 'for its turn'}"
    if status == "placed":
        doing = {"data": "fetching data", "environment": "building the environment", "starting": "starting"}
        what = doing.get(phase, "preparing")
        more = "" if not detail or detail in what else f": {detail}"
        return f"{what.capitalize()} on {row.get('node')}{more}"
    if status in ("running", "stopping"):
        return f"{str(status).capitalize()} on {row.get('node')}"
    return ""


# -- the log -----------------------------------------------------------------------------------------
def stream_log(shell: Shell, session: str, query: dict[str, Any]) -> None:
    """Write the log of *session* to stdout as it comes, to its end. Raises `Detached` on Ctrl-C."""
    reader = _LogReader(shell, session, query)
    try:
        while not reader.read():
            pass
    except KeyboardInterrupt:
        raise Detached(session) from None


class _LogReader:
    """A log and how much of it was shown; after a broken connection it goes on there."""

    def __init__(self, shell: Shell, session: str, query: dict[str, Any]) -> None:
        self._api = shell.api
        self._path = path_of(session, "/log")
        self._query = {**query, "follow": 1}
        self._plain = not {"color", "stream"} & set(query)
        self._start: int | None = None
        self._shown = 0
        self._patience = Patience(shell.api.base)

    def read(self) -> bool:
        """Show what comes; whether it was the end. A connection that breaks is not."""
        before = self._shown
        try:
            self._copy()
            return True
        except TimeoutError:
            self._patience.reset()
            return False
        except LOST:
            if self._shown > before:
                self._patience.reset()
        self._patience.wait()
        return False

    def _copy(self) -> None:
        query, skip = self._query, 0
        if (
            self._start is not None
        ):  # again: a coloured or narrowed log has no offsets and comes from its start
            skip = 0 if self._plain else self._shown
            kept = {key: value for key, value in query.items() if key not in ("tail", "since")}
            query = {**kept, "offset": self._start + (self._shown if self._plain else 0)}
        with self._api.stream(self._path, query) as response:
            if self._start is None:
                self._start = int(response.headers["X-Log-Offset"])
            while piece := response.read1(PIECE):
                fresh = piece[skip:]
                skip = max(0, skip - len(piece))
                write(fresh)
                self._shown += len(fresh)


def write(piece: bytes) -> None:
    """Bytes of a log to stdout, as they are."""
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
