"""A session's checkpoints."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from nsml.core.errors import NotFound
from nsml_cli import render
from nsml_cli.client import path_of
from nsml_cli.commands.sessions import Output, Session
from nsml_cli.shell import Shell

COLUMNS: dict[str, render.Cell] = {
    "Checkpoint": lambda row: row["checkpoint"],
    "Last Modified": lambda row: render.ago(row.get("modified")),
    "Elapsed": lambda row: render.number(row.get("elapsed")),
    "Summary": lambda row: render.summary(row.get("summary"), otherwise="", full=True),
    "Size": lambda row: render.size(row.get("bytes")),
}


def ls(
    shell: Shell,
    session: Session,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Names only.")] = False,
    output: Output = "table",
) -> None:
    """List a session's checkpoints in the order in which they were saved.

    Example:
      $ nsml model ls 12
    """
    rows = _checkpoints(shell, shell.api.session(session))
    shell.listing(rows, COLUMNS, name="checkpoint", output="name" if quiet else output)


def pull(
    shell: Shell,
    session: Session,
    checkpoint: Annotated[str, typer.Argument(help="As in 'nsml model ls'.", metavar="CKPT")],
    path: Annotated[Path, typer.Argument(help="A folder for its files; it is made.", metavar="PATH")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Write into a folder that is there.")] = False,
) -> None:
    """Copy a checkpoint's files into a folder.

    Example:
      $ nsml model pull 12 best ./best-model
    """
    from nsml_cli import transfer

    name = shell.api.session(session)
    row = next((row for row in _checkpoints(shell, name) if row["checkpoint"] == checkpoint), None)
    if row is None:
        raise _no_checkpoint(name, checkpoint)
    tree = transfer.tree(shell.api, row["tree"])
    target = transfer.new_folder(path, force)
    transfer.fetch(shell, tree.files, target)
    answer = {"session": name, "checkpoint": checkpoint, "path": str(target), "files": len(tree.files)}
    if shell.json:
        shell.document({**answer, "bytes": tree.bytes})
    else:
        shell.show(f"{render.count(len(tree.files), 'file')}, {render.size(tree.bytes)}, in {target}")


def rm(
    shell: Shell,
    session: Session,
    checkpoints: Annotated[list[str], typer.Argument(help='Names; "*" and "?" work.', metavar="CKPT...")],
) -> None:
    """Remove checkpoints of a session; it never asks.

    Example:
      $ nsml model rm 12 best
      $ nsml model rm 12 "1*"
    """
    name = shell.api.session(session)
    known = [row["checkpoint"] for row in _checkpoints(shell, name)]
    chosen: dict[str, None] = {}
    for wanted in checkpoints:
        fits = [wanted] if wanted in known else [one for one in known if fnmatchcase(one, wanted)]
        if not fits:
            raise _no_checkpoint(name, wanted)
        chosen.update(dict.fromkeys(fits))
    for checkpoint in chosen:
        shell.api.command("checkpoint.drop", session=name, checkpoint=checkpoint)
        shell.say(f"{checkpoint}: removed")
    if shell.json:
        shell.document({"session": name, "removed": list(chosen)})


def _checkpoints(shell: Shell, session: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shell.api.get(path_of(session, "/checkpoints"))
    return rows


def _no_checkpoint(session: str, checkpoint: str) -> NotFound:
    return NotFound(f"{session} has no checkpoint {checkpoint}.", hint=f"See 'nsml model ls {session}'.")
