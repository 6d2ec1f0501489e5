"""The file in which a process writes down what it reports: in the page cache when a call returns, so that not
even `kill -9` loses it, and never half a record to a reader. `nsml/core/outbox.py` reads it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from _thread import RLock
from itertools import count
from time import monotonic, time

from nsml.sdk.say import warn
from nsml.sdk.values import json_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Mapping, Optional, Tuple

    Layout = Tuple[Callable[..., bytes], int, int]

NOTE, ROW = 1, 2
LARGEST = 64 << 20  # bytes of one record, as the reader has it
MOST_LAYOUTS = 200  # of one file; code that makes up names for ever reports by notes from then on
EXACT = 1 << 53  # beyond, a float may not be the integer that was meant

_HEADER = struct.Struct("<IB")
_PAGE = mmap.PAGESIZE
_FIRST, _NEXT = 64 << 10, 1 << 20  # bytes the file grows by: little for the many that report little
_NAN = float("nan")
_PATIENCE = 1.0  # seconds before a disk that was full is tried again


class Outbox:
    """One process's outbox in *folder*. Threads may share it; after a fork the child makes its own."""

    def __init__(self, folder: str, others: int = 0) -> None:
        self._folder = folder
        self._others = others  # files of this process that are in use already
        self._lock = RLock()
        self._busy = False
        self._fd = -1
        self._map: Any = b""  # a window on the file's end; `_end` counts from its beginning, `_base`
        self._base = self._end = self._room = 0
        self._layouts: Dict[Tuple[str, ...], Layout] = {}
        self._schemas = count(1)
        self._retry_at = 0.0
        self._second: Optional[Outbox] = None

    def row(self, values: Mapping[str, Any], step: Any, summary: Any) -> Optional[bool]:
        """Write a report of numbers: True when written, False when lost, None when only a note can hold it.

        Raises struct.error when a value is no number.
        """
        layout = self._layouts.get(tuple(values)) or self._declared(tuple(values))
        if layout is None:
            return None
        for value in values.values():
            if value.__class__ is int and not -EXACT <= value <= EXACT:
                return None
        pack, length, schema = layout
        record = pack(
            length, 0, schema, 1 if summary else 0, time(), _NAN if step is None else step, *values.values()
        )
        written = self._append(record, ROW)
        return self._aside().row(values, step, summary) if written is None else written

    def note(self, fields: Mapping[str, Any]) -> bool:
        """Write a note, a JSON object; False when it was lost."""
        written = self._note(fields)
        return self._aside().note(fields) if written is None else written

    def _note(self, fields: Mapping[str, Any]) -> Optional[bool]:
        payload = json_of(fields).encode("ascii")
        if len(payload) > LARGEST:
            warn("large", "a report of %d MB is too large and was dropped" % (len(payload) >> 20))
            return False
        return self._append(_HEADER.pack(len(payload), 0) + payload, NOTE)

    def leave(self) -> None:
        """Let go of the file, in a forked child: it is the parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._map.close()

    def _declared(self, names: Tuple[str, ...]) -> Optional[Layout]:
        """The layout of rows with *names*, announced in the file; None when it cannot be."""
        if len(self._layouts) >= MOST_LAYOUTS or self._busy:
            return None
        schema = next(self._schemas) & 0xFFFFFFFF
        fields = [name.replace("__", "/") for name in names]
        if not self._note({"op": "names", "id": schema, "names": fields}):
            return None
        row = struct.Struct("<IBIBdd%dd" % len(names))
        layout = (row.pack, row.size - _HEADER.size, schema)
        self._layouts[names] = layout
        return layout

    def _append(self, record: bytes, kind: int) -> Optional[bool]:
        """Put *record* at the end: True when it is there, False when it cannot be.

        None when this very thread is in here already, because a signal handler reports: try another file.
        """
        with self._lock:
            if self._busy:
                return None
            self._busy = True
            start = self._end
            end = start + len(record)
            try:
                if end > self._room:
                    if not self._grow(len(record)):
                        return False
                    start = self._end
                    end = start + len(record)
                self._map[start:end] = record
                self._map[start + 4] = kind  # last, and one byte: a reader sees all of the record or none
                self._end = end
            except BaseException:  # a signal handler's; the next record must find the end where it is
                self._mend(start, end)
                raise
            finally:
                self._busy = False
        return True

    def _mend(self, start: int, end: int) -> None:
        if end <= self._room and self._map[start + 4]:
            self._end = end
        elif end <= self._room:
            self._map[start:end] = bytes(end - start)

    def _aside(self) -> Outbox:
        if self._second is None:
            self._second = Outbox(self._folder, self._others + 1)
        return self._second

    def _grow(self, size: int) -> bool:
        """Make room for *size* bytes more; False (and a warning, once) when the disk has none."""
        if monotonic() < self._retry_at:
            return False
        try:
            if self._fd < 0:
                self._open()
            at = self._base + self._end
            base = at - at % mmap.ALLOCATIONGRANULARITY
            least = at - base + size
            room = max(_NEXT if base else _FIRST, least + _PAGE - least % _PAGE)
            _allocate(self._fd, base, room)
            window = mmap.mmap(self._fd, room, offset=base)
        except (OSError, ValueError) as error:
            self._retry_at = monotonic() + _PATIENCE
            warn("outbox", "reports are dropped, their file cannot grow: %s" % error)
            return False
        for page in range(0, room, _PAGE):  # touched now, so that no report waits for a page fault
            window[page] = window[page]
        self._map, self._base, self._end, self._room = window, base, at - base, room
        return True

    def _open(self) -> None:
        """Take the first file that no living process holds: `outbox`, or this process's own."""
        pid = os.getpid()
        names = ["outbox"] + ["outbox.p%d" % (pid + 10_000_000 * more) for more in range(8)]
        os.makedirs(self._folder, exist_ok=True)
        for name in names[self._others :]:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(os.path.join(self._folder, name), flags, 0o600)
            end = _end_of(fd) if _held(fd) else -1
            if end >= 0:
                os.ftruncate(fd, end)  # what follows is zeros, or half a record of a process that was killed
                self._fd, self._base, self._end = fd, 0, end
                return
            os.close(fd)
        raise OSError(errno.EBUSY, "every file is in use", self._folder)


def _held(fd: int) -> bool:
    """Whether the file is ours alone from now on."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # else: a file system without locks
    return True


def _end_of(fd: int) -> int:
    """Where the records of an earlier process end, -1 when they are damaged."""
    size = os.fstat(fd).st_size
    at = 0
    while at + _HEADER.size <= size:
        length, kind = _HEADER.unpack(os.pread(fd, _HEADER.size, at))
        if not length or not kind:
            return at
        if kind not in (NOTE, ROW) or at + _HEADER.size + length > size:
            return -1
        at += _HEADER.size + length
    return at


def _allocate(fd: int, base: int, room: int) -> None:
    """Have the disk set *room* bytes aside: a hole that cannot be filled later means death by SIGBUS."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, base, room)
            return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    at = os.fstat(fd).st_size
    while at < base + room:
        at += os.pwrite(fd, bytes(min(_NEXT, base + room - at)), at)
