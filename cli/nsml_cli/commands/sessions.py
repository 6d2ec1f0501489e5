"""Sessions: list, stop, remove, describe, explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nsml.core.errors import BadInput, NotFound, NsmlError
from nsml.core.ids import fits
from nsml_cli import errors, render
from nsml_cli.client import path_of
from nsml_cli.shell import Shell

Session = Annotated[str, typer.Argument(help="OWNER/DATASET/N, DATASET/N or N.", metavar="SESSION")]
Sessions = Annotated[list[str], typer.Argument(help="OWNER/DATASET/N, DATASET/N or N.", metavar="SESSION...")]
Output = Annotated[
    str, typer.Option("--output", "-o", help="table, wide, json, yaml, name or csv.", metavar="FORM")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Draw it again every 2 s, until Ctrl-C.")]
ENDED = ("completed", "failed", "stopped", "removed")
MOST = 100_000  # sessions that a pattern is looked for in

COLUMNS: dict[str, render.Cell] = {
    "Name": lambda row: row["session"],
    "Created": lambda row: render.ago(row.get("created")),
    "Args": lambda row: row.get("args") or "",
    "Status": lambda row: row["status"],
    "Summary": lambda row: render.summary(row.get("summary")),
    "Description": lambda row: row.get("description") or "",
    "# of Models": lambda row: str(row.get("models") or 0),
    "Size": lambda row: render.size(row.get("bytes")),
    "Type": lambda row: row.get("type") or "normal",
}
WIDE: dict[str, render.Cell] = {
    "Node": lambda row: row.get("node") or "",
    "GPUs": lambda row: str(row.get("gpus") or 0),
    "Attempt": lambda row: str(row.get("attempt") or 0),
    "Progress": lambda row: "" if row.get("progress") is None else f"{100 * row['progress']:.0f}%",
    "Waited": lambda row: render.duration(row.get("wait_seconds")),
    "Ran": lambda row: render.duration(row.get("run_seconds")),
    "Exit": lambda row: "" if row.get("exit_code") is None else str(row["exit_code"]),
    "Reason": lambda row: row.get("reason") or "",
}


def ps(  # noqa: PLR0913 the filters of the original and ours
    shell: Shell,
    *,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Ended sessions, too.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Only the newest N.", metavar="N")] = 0,
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="Only those with this dataset.", metavar="NAME")
    ] = "",
    name: Annotated[
        str, typer.Option("--session", "-s", help="Only those of this name; * and ? work.", metavar="NAME")
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Names only.")] = False,
    output: Output = "table",
    watch: Watch = False,
) -> None:
    """List sessions, newest first: those that wait or run, with -a all.

    Example:
      $ nsml ps
      $ nsml ps -a -n 10 -d mnist
      $ nsml ps -a -q -s "*/mnist/*"
    """
    pattern = name if any(c in name for c in "*?[/") or not name else f"*{name}*"
    form = "name" if quiet else "wide" if shell.verbose and output == "table" else output
    query = {"all": 1 if all_ or last else None, "dataset": dataset, "name": pattern, "limit": last}

    def show() -> None:
        rows = shell.api.rows(**{key: value or None for key, value in query.items()})
        shell.listing(rows, COLUMNS, name="session", output=form, wide=WIDE)

    shell.watched(show, watch)


def stop(
    shell: Shell,
    sessions: Sessions,
    now: Annotated[bool, typer.Option("--now", help="At once, without time to save.")] = False,
) -> int:
    """Stop sessions that wait or run; what they saved stays.

    A session gets 10 seconds to save and end by itself; --now skips them.

    Example:
      $ nsml stop 12
      $ nsml stop --now alice/mnist/12 alice/mnist/13
    """

    def one(session: str) -> dict[str, Any]:
        row = shell.api.row(session)
        if row["status"] in ENDED:
            told = {"session": session, "status": row["status"]}
            shell.say(f"{session} has ended already ({row['status']}).")
        else:
            told = shell.api.command("session.stop", session=session, now=now)
            shell.say(f"{session}: {told.get('status', 'stopping')}")
        return told

    return _each(shell, sessions, one)


def rm(
    shell: Shell,
    sessions: Sessions,
    force: Annotated[bool, typer.Option("--force", "-f", help="Those that run, too.")] = False,
) -> int:
    """Remove ended sessions with their logs, curves and checkpoints; it never asks.

    Names may have * and ? (in quotes, so that the shell leaves them alone).

    Example:
      $ nsml rm alice/mnist/12
      $ nsml rm -f "alice/mnist/*"
    """

    def one(session: str) -> dict[str, Any]:
        shell.api.command("session.remove", session=session, force=force)
        shell.say(f"{session}: removed")
        return {"session": session, "status": "removed"}

    return _each(shell, _matching(shell, sessions), one)


def _matching(shell: Shell, names: Sequence[str]) -> list[str]:
    """*names* with patterns replaced by the sessions they fit, each once."""
    found: dict[str, None] = {}
    known: list[str] | None = None
    for name in names:
        if not any(c in name for c in "*?["):
            found[name] = None
            continue
        if known is None:
            known = [row["session"] for row in shell.api.rows(all=1, limit=MOST)]
        found_now = [session for session in known if fits(session, name)]
        if not found_now:
            raise NotFound(f"No session fits {name!r}.", hint="See 'nsml ps -a'.")
        found.update(dict.fromkeys(found_now))
    return list(found)


def _each(shell: Shell, names: Sequence[str], do: Any) -> int:
    """Do something to each; an error of one does not spare the others. The first error's exit code."""
    done: list[dict[str, Any]] = []
    failed: NsmlError | None = None
    for name in names:
        try:
            done.append(do(shell.api.session(name)))
        except NsmlError as error:
            if len(names) == 1:
                raise
            failed = failed or error
            done.append({"session": name, "status": "error", "reason": error.message})
            shell.say(f"{name}: {error.message}" + (f" {error.hint}" if error.hint else ""))
    if shell.json:
        shell.document(done[0] if len(names) == 1 else done)
    return errors.exit_code(failed) if failed else 0


def memo(
    shell: Shell,
    session: Session,
    text: Annotated[
        list[str] | None, typer.Argument(help="What is to be shown as Description.", metavar="TEXT")
    ] = None,
) -> None:
    """Replace a session's description.

    Example:
      $ nsml memo 12 "lower learning rate"
    """
    if text is None:
        raise BadInput("The text is missing.", hint='Type: nsml memo SESSION "what it is"')
    answer = shell.api.command("session.note", session=shell.api.session(session), memo=" ".join(text))
    if shell.json:
        shell.document(answer)


def command(shell: Shell, session: Session) -> None:
    """Print the command that ran a session.

    Example:
      $ nsml command 12
    """
    row = shell.api.row(shell.api.session(session))
    words = (row.get("run") or {}).get("command") or _rebuilt(row)
    if shell.json:
        shell.document({"session": row["session"], "command": words})
    else:
        shell.show(words)


def _rebuilt(row: dict[str, Any]) -> str:
    """The command as it would be typed, for a session that was not made by this program."""
    import shlex

    run = row.get("run") or {}
    request = run.get("request") or {}
    words = ["nsml", "run", "-e", str(run.get("entry") or "main.py"), "-g", str(request.get("gpus") or 0)]
    for dataset in run.get("datasets") or []:
        words += ["-d", f"{dataset.get('name')}@{dataset.get('version')}"]
    args = [str(arg) for arg in run.get("args") or []]
    return shlex.join([*words, *(["--", *args] if args else [])])


def why(shell: Shell, session: Session) -> None:
    """Say why a session waits, and the smallest change that would start it now.

    Example:
      $ nsml why 12
    """
    answer = shell.api.get(path_of(shell.api.session(session), "/why"))
    if shell.json:
        shell.document(answer)
        return
    reason, nearest = str(answer.get("reason") or ""), str(answer.get("nearest") or "")
    shell.show(_waiting(reason) if reason else "Nothing keeps it from running.")
    if nearest:
        shell.show(f"It would start {'' if nearest.startswith('when ') else 'now '}{nearest}.")


def _waiting(reason: str) -> str:
    """*reason* as a sentence; the platform's words about one that does not wait are one already."""
    return reason if reason.startswith("It ") else f"It waits: {reason}."
