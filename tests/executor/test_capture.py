"""What a session prints while the disk is full is held, as much as fits, and written when there is room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nsml.executor.supervision import capture
from nsml.executor.supervision.capture import ERR, OUT, Capture


class Disk:
    """Stands in for `os.write`: has *room* bytes left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        self.waited = 0
        monkeypatch.setattr(capture.os, "write", self.write)
        monkeypatch.setattr(capture.time, "sleep", self.sleep)

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(fd, bytes(data)[: self.room])
        self.room -= done
        return done

    def sleep(self, seconds: float) -> None:
        self.waited += 1
        self.room = 1 << 30


def test_nothing_is_lost_to_a_disk_that_was_full_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, room=7)
    monkeypatch.setattr(capture, "ROOM_EVERY", 0.0)
    taken = Capture(str(tmp_path), limit=0)
    taken.feed(OUT, b"first\n")
    taken.feed(OUT, b"second\n")
    taken.feed(ERR, b"third\n")
    disk.room = 1 << 30
    taken.feed(OUT, b"fourth\n")
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\nthird\nfourth\n"
    taken.finish(["end"])
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\nthird\nfourth\nend\n"


def test_the_end_waits_for_room_and_says_what_did_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, room=6)
    taken = Capture(str(tmp_path), limit=0)
    taken.feed(OUT, b"first\n")
    for _ in range(3):
        taken.feed(OUT, b"x" * capture.END_KEPT)
    taken.finish(["end"])
    written = (tmp_path / "log").read_bytes()
    assert disk.waited and written.startswith(b"first\n[nsml: 2097152 bytes left out]\n")
    assert written.endswith(b"x" * capture.END_KEPT + b"\nend\n")
