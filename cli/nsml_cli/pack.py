"""A folder as a tree of files, safely: nothing outside it is read, and nothing in it can make us hang."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from nsml.core.errors import BadInput, TooLarge
from nsml.core.ids import printable
from nsml.core.plain import plain
from nsml.core.resources import size
from nsml.core.tree import File, Tree, checked
from nsml_cli.ignore import FILE, Ignore

CHUNK = 1 << 20
LARGE_CODE = 10 << 20  # bytes of code from which on the original warned

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A file to send: its path in the tree, where it lies, its size, whether it can be executed."""

    path: str
    place: str
    bytes: int
    executable: bool


def walk(root: Path, ignore: Ignore | None, warn: Warn, most: int | None = None) -> list[Found]:
    """The regular files below *root*, by path; with *most* it stops at the first one beyond that number.

    Links that lead out of it, sockets, FIFOs and devices are skipped with a word; links to what is inside are
    taken as what they point to.
    """
    real = os.path.realpath(root)
    files = _folder(real, "", (real,), ignore, _Outside(real, warn))
    found = list(files if most is None else islice(files, most + 1))
    found.sort(key=lambda file: file.path)
    return found


class _Outside:
    """Says what is skipped, and why; the first few of it by name."""

    MOST = 10

    def __init__(self, root: str, warn: Warn) -> None:
        self.root = root
        self._warn = warn
        self._said = 0

    def has(self, place: str) -> bool:
        return place != self.root and not place.startswith(self.root.rstrip("/") + "/")

    def skip(self, path: str, why: str) -> None:
        self._said += 1
        if self._said <= self.MOST:
            self._warn(f"Skipped {printable(path)}: {why}.")
        elif self._said == self.MOST + 1:
            self._warn("Skipped more of that kind.")


def _folder(
    place: str, prefix: str, above: tuple[str, ...], ignore: Ignore | None, outside: _Outside
) -> Iterator[Found]:
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            path = prefix + entry.name
            target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.is_symlink() and outside.has(target):
                outside.skip(path, "a link that leads out of the folder")
                continue
            yield from _entry(path, target, above, ignore, outside)


def _entry(
    path: str, place: str, above: tuple[str, ...], ignore: Ignore | None, outside: _Outside
) -> Iterator[Found]:
    try:
        facts = os.lstat(place)
    except FileNotFoundError:
        outside.skip(path, "a link to nothing")
        return
    is_folder = stat.S_ISDIR(facts.st_mode)
    if ignore is not None and ignore.drops(path, is_folder):
        return
    if is_folder:
        if place in above:
            outside.skip(path, "a link to a folder that it lies in")
        elif ignore is None or not os.path.lexists(f"{place}/pyvenv.cfg"):
            yield from _folder(place, f"{path}/", (*above, place), ignore, outside)
        return
    if not stat.S_ISREG(facts.st_mode):
        outside.skip(path, "neither a file nor a folder")
        return
    _check_name(path)
    yield Found(path, place, facts.st_size, bool(facts.st_mode & 0o100))


def _check_name(path: str) -> None:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        raise BadInput(f"The name of {printable(shown)} is not UTF-8.", hint="Rename it.") from None


def code(root: Path, most_files: int, most_bytes: int, warn: Warn) -> list[Found]:
    """The files of *root* that a run sends. Raises `TooLarge` over the limits, as the original did."""
    found = walk(root, Ignore(ignore_lines(root)), warn, most_files)
    total = sum(file.bytes for file in found)
    hint = f"Leave files out with {FILE}, or push data as a dataset: 'nsml dataset push NAME PATH'."
    if len(found) > most_files:
        raise TooLarge(f"{root} has more: total number of files cannot exceed {most_files}.", hint=hint)
    if total > most_bytes:
        largest = max(found, key=lambda file: file.bytes)
        raise TooLarge(
            f"{root}: total size of files cannot exceed {size(most_bytes)}, here are {size(total)} "
            f"(the largest is {printable(largest.path)}, {size(largest.bytes)}).",
            hint=hint,
        )
    if total > LARGE_CODE:
        warn(f"The code is large ({size(total)}); {FILE} keeps files out.")
    return found


def ignore_lines(root: Path) -> list[str]:
    """The lines of the folder's `.nsmlignore`."""
    try:
        with open_plain(str(root / FILE)) as file:
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def open_plain(place: str) -> BinaryIO:
    """The regular file at *place*, to be read; never through a link, never waiting for a FIFO's other end."""
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInput(f"{printable(place)} is not a file any more.", hint="Type the command again.")
    return os.fdopen(descriptor, "rb")


def content(file: Found) -> bytes:
    """The file's bytes, as many as it had when it was found (it may grow meanwhile)."""
    with open_plain(file.place) as opened:
        return opened.read(file.bytes)


def digest(file: Found) -> str:
    """The SHA-256 of a file that is too large to be held."""
    made = hashlib.sha256()
    with open_plain(file.place) as opened:
        while chunk := opened.read(CHUNK):
            made.update(chunk)
    return made.hexdigest()


def tree_of(files: Iterable[File]) -> tuple[Tree, str, bytes]:
    """The tree of *files*, its digest and its JSON. Raises `BadInput` for a path that no tree may have."""
    import orjson

    tree = checked(Tree(files=tuple(sorted(files, key=lambda file: file.path))))
    text = orjson.dumps(plain(tree))
    return tree, hashlib.sha256(text).hexdigest(), text


def one(place: Path) -> Found:
    """A single file. Raises `BadInput` when it is none."""
    _check_name(place.name)
    with open_plain(str(place)) as opened:
        facts = os.fstat(opened.fileno())
    return Found(place.name, str(place), facts.st_size, bool(facts.st_mode & 0o100))
