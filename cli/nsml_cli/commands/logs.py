"""What a session printed."""

from __future__ import annotations

import re
import shutil
import sys
import time
from typing import Annotated, Any

import typer

from nsml.core.errors import BadInput, NotFound
from nsml_cli import follow, render
from nsml_cli.client import path_of
from nsml_cli.commands.sessions import Session
from nsml_cli.shell import Shell
from nsml_cli.stay import detached

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "": 1}


def logs(
    shell: Shell,
    session: Session,
    following: Annotated[
        bool, typer.Option("--follow/--no-follow", "-f", help="Go on until it ends.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="The last N lines.", metavar="N")] = None,
    since: Annotated[
        str, typer.Option(help="What is newer: 10m, 2h or a time (ISO 8601).", metavar="TIME")
    ] = "",
    stream: Annotated[str, typer.Option(help="Only stdout or stderr.", metavar="NAME")] = "",
) -> int | None:
    """Show a session's log, of ended ones, too. Ctrl-C leaves the session alone.

    Example:
      $ nsml logs 12
      $ nsml logs -f --tail 20 alice/mnist/12
    """
    if stream not in ("", "stdout", "stderr"):
        raise BadInput(f"{stream!r} is no stream of a session.", hint="Choose stdout or stderr.")
    query = {
        "tail": tail,
        "since": _since(since),
        "stream": stream or None,
        "color": 1 if shell.color else None,
    }
    name = shell.api.session(session)
    query = {key: value for key, value in query.items() if value is not None}
    if shell.json:
        _as_json(shell, name, query)
        return None
    if following:
        return _follow(shell, name, query)
    with shell.api.stream(path_of(name, "/log"), query) as response:
        shutil.copyfileobj(response, sys.stdout.buffer, 1 << 18)
        is_empty = response.headers["X-Log-Size"] == "0"
    if is_empty:
        _explain(shell, name)
    return None


def _follow(shell: Shell, name: str, query: dict[str, Any]) -> int | None:
    row = shell.api.row(name)
    if row["status"] in follow.WAITS:
        shell.say(follow.sentence(row))
    try:
        follow.stream_log(shell, name, query)
    except follow.Detached:
        return detached(shell, name)
    try:
        shell.api.row(name)
    except NotFound:
        shell.say(f"{name} was removed.")
    return None


def _as_json(shell: Shell, name: str, query: dict[str, Any]) -> None:
    query.pop("color", None)
    with shell.api.stream(path_of(name, "/log"), query) as response:
        text = response.read().decode("utf-8", "replace")
    shell.document({"session": name, "log": text})


def _explain(shell: Shell, name: str) -> None:
    """Why there is nothing to show, on stderr."""
    row = shell.api.row(name)
    shell.say(follow.sentence(row) or f"{name} printed nothing ({row['status']}).")
    if row["status"] == "failed" and row.get("reason"):
        shell.say(str(row["reason"]))


def _since(text: str) -> float | None:
    """Seconds since 1970 of `10m` (ago) or an ISO time; None for nothing."""
    if not text:
        return None
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text):
        return time.time() - float(found[1]) * SECONDS[found[2]]
    moment = render.epoch(text)
    if moment is None:
        raise BadInput(f"{text!r} is no time.", hint="Write 10m, 2h, or 2026-01-31T12:00:00+09:00.")
    return moment
