"""FileStreams: append-only byte streams, a file each."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from nsml.core.errors import BadInput, Conflict, Unavailable
from nsml.store import stream_names

T = TypeVar("T")
THREADS = 4  # disks serve a few at a time; one slow read must not hold back the log of another session
SHORT = 64 << 10  # bytes that take less time to write or read than to hand to another thread
LOCKS = 64  # appends to one stream take turns; streams that share a lock hardly ever meet


class FileStreams:
    """Streams as files below *root*, named by their paths. An append is safe from a crash of the platform,
    not from one of the machine: whoever sends keeps what it sent until the session is over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads: ThreadPoolExecutor | None = None
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    async def __aenter__(self) -> Self:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _explained(self.root, error) from error
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="streams")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        threads, self._threads = self._threads, None
        if threads:
            await asyncio.to_thread(threads.shutdown)

    async def ping(self) -> None:
        await self._do(self.root, lambda: os.scandir(self.root).close())

    async def append(self, stream: str, offset: int, data: bytes) -> None:
        path = self._path(stream)
        lock = self._locks[hash(stream) % LOCKS]

        def write() -> None:
            with lock:
                _append(path, stream, offset, data)

        await self._do(path, write, here=len(data) <= SHORT)

    async def read(self, stream: str, offset: int, limit: int) -> bytes:
        path = self._path(stream)
        return await self._do(path, lambda: _read(path, offset, limit), here=limit <= SHORT)

    async def size(self, stream: str) -> int:
        path = self._path(stream)
        return await self._do(path, lambda: _size(path), here=True)

    async def find(self, prefix: str) -> Sequence[str]:
        return await self._do(self.root, lambda: sorted(name for name, _ in self._below(prefix)))

    async def drop(self, prefix: str) -> None:
        def unlink() -> None:
            for _, path in list(self._below(prefix)):
                path.unlink(missing_ok=True)
                self._prune(path.parent)

        await self._do(self.root, unlink)

    def _prune(self, folder: Path) -> None:
        """Remove *folder* and those above it that are empty now."""
        with suppress(OSError):  # not empty, or somebody was faster: then it stays
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _below(self, prefix: str) -> Iterator[tuple[str, Path]]:
        start = self.root.joinpath(*stream_names.folder(prefix))
        for at, _, names in os.walk(start):
            for name in names:
                path = Path(at, name)
                stream = path.relative_to(self.root).as_posix()
                if stream.startswith(prefix):
                    yield stream, path

    def _path(self, stream: str) -> Path:
        return self.root.joinpath(*stream_names.parts(stream))

    async def _do(self, path: Path, work: Callable[[], T], *, here: bool = False) -> T:
        """The result of *work*: in the caller's thread when it is short (*here*), else in another."""
        if self._threads is None:
            raise Unavailable("The platform's streams are closed: the platform is going down.")
        try:
            if here:
                return work()
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            raise _explained(path, error) from error


def _append(path: Path, stream: str, offset: int, data: bytes) -> None:
    size = _size(path)
    if offset > size:
        raise Conflict(f"{stream} ends at {size}: bytes from {offset} on would leave a gap.")
    new = memoryview(data)[size - offset :]
    if not new:
        return
    file = _open(path)
    try:
        while new:
            written = os.pwrite(file, new, size)
            size, new = size + written, new[written:]
    finally:
        os.close(file)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, flags, 0o600)


def _read(path: Path, offset: int, limit: int) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(file, limit, offset)
    finally:
        os.close(file)


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "there are streams below it", str(path))
    return found.st_size


def _explained(path: Path, error: OSError) -> BadInput | Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Unavailable(
            f"The disk that holds {path} is full.", hint="Free some space: it goes on by itself then."
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return BadInput(f"{path} cannot be a stream: {error.strerror}.")
    return Unavailable(f"{path} cannot be used now: {error.strerror}.", hint="See that its disk can be used.")
