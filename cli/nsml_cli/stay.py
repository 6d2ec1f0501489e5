"""Staying with a session after it was accepted, until it has a place, starts or ends; its exit code."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass

from nsml.core.errors import NoRoom, NotFound, NsmlError
from nsml_cli import errors, follow, render
from nsml_cli.client import path_of
from nsml_cli.shell import Shell

LAST_LINES = 10  # of a failed session's log: a traceback's end, not a screenful


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long the command stays with its session."""

    wait: bool = False
    timeout: float | None = None
    propagate: bool = False
    interactive: bool = False
    no_queue: bool = False
    detach: bool = False


def detached(shell: Shell, session: str, interactive: bool = False) -> int:
    """Say that the session goes on, and how to come back."""
    shell.say(f"\nDetached; the session goes on. 'nsml logs -f {session}' shows it again.")
    if interactive:
        shell.say(f"It stays after its end: 'nsml rm -f {session}' ends and removes it.")
    return errors.INTERRUPTED


def stay(shell: Shell, session: str, status: str, waiting: Waiting) -> int | None:
    """Tell the name and follow the session as far as was asked."""
    try:
        if waiting.no_queue:
            status = _placed(shell, session)
        _announce(shell, session, status, waiting)
        if waiting.interactive:
            return _interactive(shell, session)
        if waiting.wait:
            return _until_ended(shell, session, waiting)
        if not waiting.detach and shell.is_terminal and not shell.json:
            row = follow.follow(shell, session, lambda row: row["status"] not in follow.WAITS)
            if row and row["status"] == "failed":
                shell.say(f"{session}: failed: {row.get('reason')}")
            shell.say(f"'nsml logs -f {session}' shows its log.")
    except follow.Detached:
        return detached(shell, session, waiting.interactive)
    return None


def _announce(shell: Shell, session: str, status: str, waiting: Waiting) -> None:
    """The line that scripts read; with --json the document, unless there is more to wait for."""
    if not shell.json:
        shell.show(f"Session {session} is started")
        sys.stdout.flush()
    elif not (waiting.wait or waiting.interactive):
        shell.document({"session": session, "status": status})


def _placed(shell: Shell, session: str) -> str:
    """The state of a session that was not to wait, once it has a place; `NoRoom` when it has none."""
    row = follow.follow(shell, session, lambda row: row["status"] != "queued")
    if row is None or row["status"] == "removed":
        reason = str((row or {}).get("reason") or "nothing is free")
        raise NoRoom(f"There is no room now: {reason}", hint="Without --no-queue it waits for its turn.")
    return str(row["status"])


def _until_ended(shell: Shell, session: str, waiting: Waiting) -> int:
    row = follow.follow(shell, session, lambda row: False, waiting.timeout)
    if row is None:
        shell.say(f"{session} has not ended within {render.duration(waiting.timeout)}; it goes on.")
        _tell_outcome(shell, shell.api.row(session))
        return errors.NOT_FINISHED
    _tell_outcome(shell, row)
    code = errors.of_outcome(row, waiting.propagate)
    if code == errors.FAILED and not shell.json:
        _last_words(shell, session)
    elif row["status"] == "failed" and not shell.json:
        shell.say(f"'nsml logs {session}' shows its log.")
    return code


def _last_words(shell: Shell, session: str) -> None:
    """The end of a failed session's log, and where the rest is."""
    with suppress(NsmlError), shell.api.stream(path_of(session, "/log"), {"tail": LAST_LINES}) as log:
        for line in log.read().decode(errors="replace").splitlines():
            shell.say(f"  {line}")
    shell.say(f"'nsml logs {session}' shows its log.")


def _tell_outcome(shell: Shell, row: follow.Row) -> None:
    """How it ended: one document with --json, else a line on stderr."""
    session, seconds = row["session"], row.get("run_seconds")
    if shell.json:
        outcome = {key: row.get(key) for key in ("status", "exit_code", "reason", "cause")}
        shell.document({"session": session, **outcome, "seconds": seconds})
        return
    reason = f": {row['reason']}" if row.get("reason") else ""
    shell.say(f"{session}: {row.get('status')}{reason} ({render.duration(seconds)})")


def _interactive(shell: Shell, session: str) -> int:
    """Show the log here and remove the session at its end; the exit code of its outcome."""
    follow.follow(shell, session, lambda row: row["status"] not in follow.WAITS)
    if not shell.json:
        follow.stream_log(shell, session, {"color": 1} if shell.color else {})
    row = follow.follow(shell, session, lambda row: False) or {"session": session}
    try:
        shell.api.command("session.remove", session=session, force=True)
    except NotFound:
        shell.detail(f"{session} was removed already.")
    except NsmlError as error:
        shell.say(f"{session} could not be removed: {error.message}")
    _tell_outcome(shell, row)
    return errors.of_outcome(row)
