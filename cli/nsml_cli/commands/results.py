"""What a session left behind: curves, produced files, the code it ran."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from nsml.core.errors import BadInput, NotFound, Refused
from nsml.core.tree import Tree
from nsml_cli import render
from nsml_cli.client import path_of
from nsml_cli.commands.sessions import Session
from nsml_cli.shell import Shell

APP = "/app"  # where sessions of the original had their files
COUNTING = ("epoch", "epoch_total", "iter", "iter_total")  # say how far it is, and are no curve to look at


def plot(
    shell: Shell,
    session: Session,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Only these curves; * and ? work.", metavar="NAME")
    ] = None,
    height: Annotated[
        int, typer.Option("--height", min=8, max=100, help="Lines of a picture.", metavar="N")
    ] = 10,
) -> None:
    """Draw the curves that a session reported; with --json every point of them.

    What only counts (epoch, epoch_total, iter, iter_total) is drawn when --name asks for it.

    Example:
      $ nsml plot 12
      $ nsml plot 12 --name "train/*"
    """
    answer = shell.api.get(path_of(shell.api.session(session), "/plot"))
    if name:
        series = [s for s in answer["series"] if any(fnmatchcase(s["name"], pattern) for pattern in name)]
        if not series:
            known = ", ".join(s["name"] for s in answer["series"]) or "none"
            raise NotFound(f"{answer['session']} has no curve {' or '.join(name)}.", hint=f"It has: {known}.")
        answer = {**answer, "series": series}
    if shell.json:
        shell.document(answer)
        return
    drawn = answer["series"] if name else [s for s in answer["series"] if s["name"] not in COUNTING]
    if not drawn:
        shell.say(f"{answer['session']} has reported nothing yet. In its code: nsml.report(step=…, loss=…)")
    from nsml_cli import plot as drawing

    for series in drawn:
        shell.write([*drawing.picture(series, render.width(), height), ""])


def download(
    shell: Shell,
    session: Session,
    path: Annotated[
        Path, typer.Argument(help="A folder, made if need be; this one.", metavar="PATH")
    ] = Path(),
    single: Annotated[
        str, typer.Option("--single", "-s", help="Only this file or folder.", metavar="P")
    ] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files that are there.")] = False,
) -> None:
    """Copy the files that a session produced beside its code, here or into PATH; it may still run.

    Example:
      $ nsml download 12 ./results
      $ nsml download -s out/result.txt 12
    """
    from nsml_cli import transfer

    name = shell.api.session(session)
    digest = shell.api.get(path_of(name, "/output")).get("tree")
    tree = transfer.tree(shell.api, digest) if digest else Tree()
    files = [file for file in tree.files if not single or _is_below(file.path, single)]
    if single and not files:
        raise NotFound(
            f"{name} produced no {single}.",
            hint=f"'nsml download {name} PATH' gets all it produced, 'nsml pull {name} PATH' its code.",
        )
    taken = [file.path for file in files if (path / file.path).exists()]
    if taken and not force:
        raise Refused(f"{path / taken[0]} is there already.", hint="Name another folder, or add -f.")
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is not a folder.")
    path.mkdir(parents=True, exist_ok=True)
    transfer.fetch(shell, files, path)
    total = sum(file.bytes for file in files)
    if not files:
        shell.say(f"{name} produced no files beside its code.")
    if shell.json:
        shell.document({"session": name, "path": str(path), "files": len(files), "bytes": total})
    else:
        shell.show(f"{render.count(len(files), 'file')}, {render.size(total)}, in {path}")


def _is_below(path: str, wanted: str) -> bool:
    """Whether *path* is the file *wanted* or in that folder; `/app/x` means `x`, as in the original."""
    inside = wanted.removeprefix(APP).strip("/").removeprefix("./")
    return not inside or path == inside or path.startswith(f"{inside}/")


def pull(
    shell: Shell,
    session: Session,
    path: Annotated[Path, typer.Argument(help="A folder; it is made.", metavar="PATH")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Erase a folder that is there.")] = False,
) -> None:
    """Copy the code that a session ran, as it was uploaded.

    Example:
      $ nsml pull 12 ./code-of-12
    """
    from nsml_cli import transfer

    row = shell.api.row(shell.api.session(session))
    tree = transfer.tree(shell.api, row["run"]["code"])
    target = transfer.new_folder(path, force, erase=True)
    transfer.fetch(shell, tree.files, target)
    if shell.json:
        shell.document({"session": row["session"], "path": str(target), "files": len(tree.files)})
    else:
        shell.show(f"{render.count(len(tree.files), 'file')}, {render.size(tree.bytes)}, in {target}")
