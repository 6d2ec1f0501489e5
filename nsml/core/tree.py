"""A folder as one value: the list of its files by path and content digest. Code, datasets, checkpoints
and produced files are all trees, so there is one way to send them and nothing to unpack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nsml.core.errors import BadInput
from nsml.core.ids import digest, printable

MOST_FILES = 2_000_000
LONGEST_PATH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a tree: its path with `/`, its size in bytes, its content's SHA-256."""

    path: str
    bytes: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files of a folder, by path; the digest of its JSON form names it."""

    files: tuple[File, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def checked(tree: Tree) -> Tree:
    """*tree* if it can be laid into a folder without leaving it; else `BadInput` that names the path."""
    if len(tree.files) > MOST_FILES:
        raise BadInput(f"{len(tree.files)} files are more than a tree may have ({MOST_FILES}).")
    seen: set[str] = set()
    folders: set[str] = set()
    for file in tree.files:
        _check_path(file.path)
        digest(file.sha256)
        if file.bytes < 0:
            raise BadInput(f"{printable(file.path)!r} has a negative size.")
        if file.path in seen:
            raise BadInput(f"{printable(file.path)!r} is there twice.")
        seen.add(file.path)
        folders.update(_folders(file.path))
    for path in seen & folders:
        raise BadInput(f"{printable(path)!r} is both a file and a folder.")
    return tree


def _check_path(path: str) -> None:
    parts = path.split("/")
    if len(path.encode("utf-8", "surrogateescape")) > LONGEST_PATH or any(
        part in ("", ".", "..") or len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts
    ):
        raise BadInput(f"{printable(path)[:200]!r} is not a path inside a folder.")
    if "\0" in path or "\\" in path:
        raise BadInput(f"{printable(path)[:200]!r} has a character that no file name may have.")


def _folders(path: str) -> Iterable[str]:
    at = path.find("/")
    while at != -1:
        yield path[:at]
        at = path.find("/", at + 1)
