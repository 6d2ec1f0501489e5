"""Datasets: list, push, look into, copy, remove."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nsml.core import ids
from nsml.core.errors import BadInput, NotFound, Refused
from nsml_cli import render
from nsml_cli.client import dataset_path
from nsml_cli.commands.sessions import Output
from nsml_cli.shell import Shell

Name = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or OWNER/NAME.", metavar="NAME")]
TRAIN = "train/"

COLUMNS: dict[str, render.Cell] = {
    "Name": lambda row: row["name"],
    "Size": lambda row: render.size(row.get("bytes")),
    "Last Modified": lambda row: render.ago(row.get("modified")),
    "Author": lambda row: row.get("owner") or "",
    "Description": lambda row: row.get("description") or "",
    "Tag": lambda row: " ".join(row.get("tags") or []),
}
WIDE: dict[str, render.Cell] = {
    "Version": lambda row: str(row.get("version") or ""),
    "Files": lambda row: str(row.get("files") or 0),
    "Private": lambda row: "yes" if row.get("private") else "no",
}
FILES: dict[str, render.Cell] = {
    "Path": lambda row: row["path"],
    "Size": lambda row: render.size(row["bytes"]),
}


def ls(
    shell: Shell,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Names only.")] = False,
    output: Output = "table",
) -> None:
    """List the datasets that sessions can use.

    Example:
      $ nsml dataset ls
    """
    rows = shell.api.get("/v1/datasets")
    form = "name" if quiet else "wide" if shell.verbose and output == "table" else output
    shell.listing(rows, COLUMNS, name="name", output=form, wide=WIDE)


def push(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="What it is to be called.", metavar="NAME")],
    path: Annotated[Path, typer.Argument(help="A folder or a file.", metavar="PATH")],
    force: Annotated[bool, typer.Option("--force", "-f", help="A new version, if it is there.")] = False,
    private: Annotated[bool | None, typer.Option("--private/--public", help="For yourself alone.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Such as '#digits'; repeatable.", metavar="TAG")
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", help="One line about it.", metavar="TEXT")
    ] = None,
) -> None:
    """Upload a folder or a file as a dataset; only what the platform lacks is sent.

    Sessions that are run with -d NAME find its content below DATASET_PATH/train.

    Example:
      $ nsml dataset push mnist ./mnist
      $ nsml dataset push -f mnist ./mnist --description "28 x 28 digits"
    """
    ids.name(name, "dataset")
    _check_free(shell, name, force)
    from nsml_cli import transfer

    found = _found(shell, path)
    tree, digest = transfer.upload(shell, found, TRAIN)
    body = {"dataset": name, "tree": digest, "force": force}
    optional = {"description": description, "tags": tag, "private": private}
    given = {key: value for key, value in optional.items() if value is not None}
    answer = shell.api.command("dataset.push", **body, **given)
    if shell.json:
        shell.document({**answer, "files": len(tree.files), "bytes": tree.bytes})
    else:
        size = render.size(tree.bytes)
        shell.show(
            f"{name} version {answer.get('version', '?')}: {render.count(len(tree.files), 'file')}, {size}"
        )


def _found(shell: Shell, path: Path) -> list[Any]:
    """The files to send, or the one file. Raises `BadInput` when there is none."""
    from nsml_cli import pack

    if path.is_dir():
        found = pack.walk(path, None, shell.say)
        if not found:
            raise BadInput(f"{path} has no files.", hint="A dataset needs at least one.")
        return found
    if not path.is_file():
        what = "is neither a folder nor a file" if path.exists() else "does not exist"
        raise BadInput(f"{path} {what}.", hint="Name the folder or file that holds the data.")
    place = path.resolve()
    return [replace(pack.one(place), path=path.name)]


def _check_free(shell: Shell, name: str, force: bool) -> None:
    """Say that the name is taken before anything is sent, not after."""
    if force:
        return
    taken = [row for row in shell.api.get("/v1/datasets") if row["name"] == name]
    own = (shell.api.get("/v1/status").get("user") or None) if taken else None
    if any(own is None or row["owner"] == own for row in taken):
        raise Refused(
            f"The dataset {name} exists already (version {taken[0].get('version')}).",
            hint=f"Type 'nsml dataset push -f {name} PATH' to push a new version.",
        )


def fs(shell: Shell, name: Name, output: Output = "table") -> None:
    """List a dataset's files.

    Example:
      $ nsml dataset fs mnist
      $ nsml dataset fs mnist@1 -o name
    """
    from nsml_cli import transfer

    tree = transfer.tree(shell.api, _tree(shell, name))
    rows = [{"path": file.path, "bytes": file.bytes} for file in tree.files]
    shell.listing(rows, FILES, name="path", output=output)


def pull(
    shell: Shell,
    name: Name,
    path: Annotated[Path, typer.Argument(help="A folder for its files; it is made.", metavar="PATH")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Write into a folder that is there.")] = False,
) -> None:
    """Copy a dataset into a folder, as it was pushed.

    Example:
      $ nsml dataset pull mnist ./mnist
      $ nsml dataset pull mnist@1 ./mnist-before
    """
    from nsml_cli import transfer

    tree = transfer.tree(shell.api, _tree(shell, name))
    files = tree.files
    if all(file.path.startswith(TRAIN) for file in files):  # the push put it there
        files = tuple(replace(file, path=file.path.removeprefix(TRAIN)) for file in files)
    target = transfer.new_folder(path, force)
    transfer.fetch(shell, files, target)
    if shell.json:
        shell.document({"dataset": name, "path": str(target), "files": len(files), "bytes": tree.bytes})
    else:
        shell.show(f"{render.count(len(files), 'file')}, {render.size(tree.bytes)}, in {target}")


def rm(
    shell: Shell,
    names: Annotated[list[str], typer.Argument(help="Datasets.", metavar="NAME...")],
) -> None:
    """Remove datasets with all their versions; it never asks.

    Example:
      $ nsml dataset rm mnist
    """
    for name in names:
        if "@" in name:
            raise BadInput(f"{name}: versions are not removed one by one.", hint="Leave out @VERSION.")
        shell.api.command("dataset.remove", dataset=name)
        shell.say(f"{name}: removed")
    if shell.json:
        shell.document({"removed": names})


def _tree(shell: Shell, name: str) -> str:
    row = shell.api.get(dataset_path(name))
    if not row.get("tree"):
        raise NotFound(f"There is no {name}.", hint="See 'nsml dataset ls'.")
    return str(row["tree"])
