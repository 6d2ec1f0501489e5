"""Trees between blobs and folders: laid down for a session, taken up from what it made."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from nsml.core.errors import Damaged, NotFound, TooLarge
from nsml.core.plain import plain, restore
from nsml.core.ports import Blobs
from nsml.core.tree import File, Tree, checked

CHUNK = 4 << 20  # bytes read at a time from a large file
SMALL = 1 << 20  # a file up to this size is read whole
AT_ONCE = 8  # files in flight between folder and blobs
LARGEST_LIST = 1 << 30  # bytes of a tree's list: two million files
UNSAFE = re.compile(r"[\\\0]")


async def read(blobs: Blobs, digest: str) -> Tree:
    """The tree of *digest*. Raises `NotFound`, and `Damaged` or `BadInput` when it is none."""
    data = await blobs.get_bytes(digest, LARGEST_LIST)
    try:
        return checked(restore(Tree, orjson.loads(data)))
    except (ValueError, TypeError) as error:
        raise Damaged(f"The blob {digest} is not a list of files: {error}.") from error


async def lay(blobs: Blobs, tree: Tree, folder: Path, *, shared: bool = False) -> None:
    """Put the files of *tree* into the new *folder*; *shared* ones are read-only and may be hard links."""
    local = getattr(blobs, "path", None)
    if local is not None:
        await asyncio.to_thread(_lay_local, local, tree, folder, shared)
    else:
        await asyncio.to_thread(_make_folders, tree, folder)
        await _several(_fetch(blobs, file, folder / file.path, shared) for file in tree.files)
    if shared:
        await asyncio.to_thread(_close_folders, folder)


async def store(blobs: Blobs, folder: Path, files: Sequence[Path]) -> tuple[str, Tree]:
    """Store *files*, which lie below *folder*, as a tree: its digest, and the tree."""
    found: list[File | None] = [None] * len(files)

    async def one(index: int, path: Path) -> None:
        with suppress(FileNotFoundError):  # gone since it was listed: it is not part of the tree
            found[index] = await _put(blobs, path, path.relative_to(folder).as_posix())

    await _several(one(index, path) for index, path in enumerate(files))
    tree = Tree(files=tuple(file for file in found if file))
    return await put_list(blobs, tree), tree


async def put_list(blobs: Blobs, tree: Tree) -> str:
    """Store the list of *tree*; its digest names the tree."""
    return await blobs.put_bytes(orjson.dumps(plain(tree)))


def regular_files(folder: Path, most_files: int, most_bytes: int) -> list[Path]:
    """What `walk` finds, sorted. Raises `TooLarge` beyond *most_files* or *most_bytes*."""
    found: list[Path] = []
    total = 0
    for path in walk(folder):
        found.append(path)
        total += path.stat().st_size
        if len(found) > most_files or total > most_bytes:
            raise TooLarge(f"{folder.name} has more than {most_files} files or {most_bytes} bytes.")
    return sorted(found)


def walk(folder: Path) -> Iterator[Path]:
    """The files below *folder* that a tree can hold: no devices, pipes, links out, or impossible names."""
    inside = folder.resolve()
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if not _can_be_named(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False) or _leads_inside(Path(entry.path), inside):
                    yield Path(entry.path)


def _leads_inside(link: Path, inside: Path) -> bool:
    with suppress(OSError, RuntimeError):  # it leads nowhere, or in circles
        real = link.resolve(strict=True)
        return real.is_file() and real.is_relative_to(inside)
    return False


def _can_be_named(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not UNSAFE.search(name)


# -- from blobs ------------------------------------------------------------------------------------
def _make_folders(tree: Tree, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in {str(Path(file.path).parent) for file in tree.files}:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _lay_local(local: Any, tree: Tree, folder: Path, shared: bool) -> None:
    _make_folders(tree, folder)
    for file in tree.files:
        source = local(file.sha256)
        if source is None:
            raise NotFound(f"The content of {file.path} is not stored any more.")
        target = folder / file.path
        if not (shared and not file.executable and _linked(source, target)):
            shutil.copyfile(source, target)
            target.chmod(_mode(file, shared))


def _linked(source: Path, target: Path) -> bool:
    """Whether *target* is now the same file as the blob *source*, which nobody may write."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


async def _fetch(blobs: Blobs, file: File, target: Path, shared: bool) -> None:
    with target.open("wb") as out:
        async for chunk in blobs.open(file.sha256):
            await asyncio.to_thread(out.write, chunk)
        os.fchmod(out.fileno(), _mode(file, shared))


def _mode(file: File, shared: bool) -> int:
    if shared:
        return 0o555 if file.executable else 0o444
    return 0o755 if file.executable else 0o644


def _close_folders(folder: Path) -> None:
    for root, _, _ in os.walk(folder, topdown=False):
        Path(root).chmod(0o555)


# -- to blobs ----------------------------------------------------------------------------------------
async def _put(blobs: Blobs, path: Path, name: str) -> File:
    status = await asyncio.to_thread(path.stat)
    counted = _Counted()
    if status.st_size <= SMALL:
        data = await asyncio.to_thread(path.read_bytes)
        digest, counted.bytes = await blobs.put_bytes(data), len(data)
    else:
        digest = await blobs.put(counted.chunks(path))
    return File(path=name, bytes=counted.bytes, sha256=digest, executable=bool(status.st_mode & 0o100))


class _Counted:
    """Counts the bytes of a file as they are read: it may grow meanwhile."""

    def __init__(self) -> None:
        self.bytes = 0

    async def chunks(self, path: Path) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(path.open, "rb")
        with file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                self.bytes += len(chunk)
                yield chunk


async def _several(jobs: Iterable[Any]) -> None:
    """Run *jobs*, a few at a time; the first that fails ends them all, with its own error."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    finally:
        for job in waiting:
            job.close()
