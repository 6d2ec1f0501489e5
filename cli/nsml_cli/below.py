"""Writing what the platform sends below a folder: verified, never through a link that lies there."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from nsml.core.errors import Damaged, NsmlError, Refused
from nsml.core.ids import printable
from nsml.core.tree import File

SMALL = 1 << 20  # bytes that are verified in memory and written at once
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Below:
    """Lays files of a checked tree into a folder."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._known: set[str] = {""}

    def parent(self, path: str) -> None:
        """Make the folders above *path*. Raises `Refused` where something else is in the way."""
        folder = path.rpartition("/")[0]
        if folder in self._known:
            return
        self.parent(folder)
        place = f"{self._root}/{folder}"
        try:
            Path(place).mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise Refused(f"{printable(place)} is there already and is no folder.") from None
        self._known.add(folder)

    def lay(
        self, copies: Sequence[File], source: IO[bytes], length: int, moved: Callable[[int], None]
    ) -> None:
        """Write *length* bytes of *source* as each of *copies*, once their digest is right."""
        if length > SMALL:
            self._lay_large(copies, source, length, moved)
            return
        content = exactly(source, length)
        _verify(copies[0], hashlib.sha256(content).hexdigest())
        for file in copies:
            with os.fdopen(self._new(file), "wb", 0) as opened:
                opened.write(content)
        moved(length)

    def _lay_large(
        self, copies: Sequence[File], source: IO[bytes], length: int, moved: Callable[[int], None]
    ) -> None:
        part = Path(f"{self._root}/.nsml-{copies[0].sha256[:32]}.part")
        part.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(part, NEW, 0o666), "wb") as opened:
                _verify(copies[0], _copy(source, opened, length, moved))
            for file in copies[1:]:
                with part.open("rb") as content, os.fdopen(self._new(file), "wb") as opened:
                    shutil.copyfileobj(content, opened, SMALL)
            if copies[0].executable:
                part.chmod(part.stat().st_mode | 0o111)
            part.replace(self._place(copies[0]))  # takes the place of a link, does not follow it
        finally:
            part.unlink(missing_ok=True)

    def _new(self, file: File) -> int:
        """A new file in its place, open for writing; what was there (a link, too) makes room."""
        place, mode = self._place(file), 0o777 if file.executable else 0o666
        try:
            return os.open(place, NEW, mode)
        except FileExistsError:
            Path(place).unlink()
            return os.open(place, NEW, mode)

    def _place(self, file: File) -> str:
        return f"{self._root}/{file.path}"


def exactly(source: IO[bytes], count: int) -> bytes:
    """*count* bytes of *source*. Raises when it ends before."""
    got = source.read(count)
    while len(got) < count:
        more = source.read(count - len(got))
        if not more:
            raise NsmlError("The connection broke before everything had come.", hint="Type it again with -f.")
        got += more
    return got


def _copy(source: IO[bytes], target: IO[bytes], length: int, moved: Callable[[int], None]) -> str:
    """Copy *length* bytes; their SHA-256."""
    made = hashlib.sha256()
    while length:
        chunk = exactly(source, min(length, SMALL))
        made.update(chunk)
        target.write(chunk)
        moved(len(chunk))
        length -= len(chunk)
    return made.hexdigest()


def _verify(file: File, digest: str) -> None:
    if digest != file.sha256:
        raise Damaged(f"{printable(file.path)} came back changed: its digest is another.")
