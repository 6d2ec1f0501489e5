"""What a session prints, written to `log` in order of arrival and cut in the middle when it is too much."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import deque

OUT, ERR, OWN = 0, 1, 2  # where bytes come from; OWN are the supervisor's words
END_KEPT = 1 << 20  # of a log that is too long, besides its beginning
RANGE = struct.Struct("<QQ")
FULL = (errno.ENOSPC, errno.EDQUOT)  # what a disk without room says
ROOM_EVERY = 0.5  # seconds between tries to write the end of a log to such a disk


class Capture:
    """Appends to `log`, and to `log.err` the ranges of it that came from stderr.

    Beyond *limit* bytes the last MiB waits in memory and is written at the end, after a line that says how
    much was left out: a flood costs neither disk nor the session's time. While the disk is full the last MiB
    waits in the same way.
    """

    def __init__(self, folder: str, limit: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._log = os.open(os.path.join(folder, "log"), flags, 0o600)
        self._ranges_at = os.path.join(folder, "log.err")
        self._ranges = -1
        self._size = os.fstat(self._log).st_size
        self._room = max(limit - END_KEPT, END_KEPT) if limit else 1 << 62
        self._open: tuple[int, int] | None = None  # a stderr range that may still grow
        self._ring: deque[tuple[int, bytearray]] = deque()
        self._held = 0
        self._left_out = 0
        self._last = b"\n"
        self._full_at = 0.0  # when the disk was last found full
        self._is_ending = False

    def feed(self, source: int, data: bytes) -> None:
        """Take *data* that the session wrote."""
        if self._full_at and time.monotonic() - self._full_at > ROOM_EVERY:
            self._catch_up()
        if self._size < self._room:
            now, data = data[: self._room - self._size], data[self._room - self._size :]
            self._write(source, now)
        if data:
            self._hold(source, data)

    def flush(self) -> None:
        """Write the open stderr range, so that whoever reads along knows it."""
        if self._open:
            if self._ranges < 0 and not self._make_ranges():
                return
            if self._put(self._ranges, RANGE.pack(*self._open)):
                return  # the disk is full: these bytes will not be known as stderr's
            self._open = None

    def _make_ranges(self) -> bool:
        try:
            self._ranges = os.open(self._ranges_at, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return False
        return True

    def finish(self, lines: list[str]) -> None:
        """Write what was held back, then *lines* of our own, and close. Waits while the disk is full."""
        self._is_ending = True
        self._catch_up()
        for line in lines:
            self._say(line)
        self.flush()
        os.close(self._log)
        if self._ranges >= 0:
            os.close(self._ranges)

    def _catch_up(self) -> None:
        """Write what was held back, as far as there is room."""
        ring, left_out = self._ring, self._left_out
        self._ring, self._held, self._left_out, self._full_at = deque(), 0, 0, 0.0
        if left_out:
            self._say(f"[nsml: {left_out} bytes left out]")
        for source, data in ring:
            self._write(source, bytes(data))

    def say(self, line: str) -> None:
        """A line of the platform's own among the session's."""
        data = f"{line}\n".encode()
        self.feed(OWN, data if self._last == b"\n" else b"\n" + data)

    def _say(self, line: str) -> None:
        data = f"{line}\n".encode()
        self._write(OWN, data if self._last == b"\n" else b"\n" + data)

    def _write(self, source: int, data: bytes) -> None:
        start = self._size
        rest = self._put(self._log, data) if not self._full_at else data
        if rest:
            self._full_at = self._full_at or time.monotonic()
            self._hold(source, rest)
            data = data[: -len(rest)]
        if not data:
            return
        self._size += len(data)
        self._last = data[-1:]
        if source != ERR:
            self.flush()
        elif self._open and self._open[1] == start:
            self._open = (self._open[0], self._size)
        else:
            self.flush()
            self._open = (start, self._size)

    def _put(self, fd: int, data: bytes) -> bytes:
        """Append *data*; what there was no room for."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not self._is_ending:
                    break
                time.sleep(ROOM_EVERY)
        return bytes(view)

    def _hold(self, source: int, data: bytes) -> None:
        if self._ring and self._ring[-1][0] == source:
            self._ring[-1][1].extend(data)
        else:
            self._ring.append((source, bytearray(data)))
        self._held += len(data)
        while self._held > END_KEPT:
            _, first = self._ring[0]
            over = min(len(first), self._held - END_KEPT)
            del first[:over]  # a bytearray gives up its beginning without copying the rest
            self._held -= over
            self._left_out += over
            if not first:
                self._ring.popleft()
