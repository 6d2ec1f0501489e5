"""Homes that are damaged and disks that are full: said by name, never begun anew, and all goes on afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from homes import Home, refused

MAIN = "print('hi')\n"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a session ran; its platform was killed, so that the newest is in the write-ahead log."""
    home = Home(tmp_path_factory.mktemp("used"))
    assert home.run(MAIN)[1]["exit"] == 0
    os.kill(home("status", "--json").json["pid"], signal.SIGKILL)
    home.until(lambda: not _lives(home))
    return home.path


def _lives(home: Home) -> bool:
    pid = int((home.nsml / "platform.lock").read_text())
    return Path(f"/proc/{pid}").exists()


def again(used: Path, tmp_path: Path) -> Home:
    shutil.copytree(used / ".nsml", tmp_path / ".nsml")
    return Home(tmp_path)


def half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda nsml: half(nsml / "nsml.db"), "nsml.db"),
        (lambda nsml: (nsml / "nsml.db").write_bytes(b""), "nsml.db is empty"),
        (lambda nsml: (nsml / "nsml.db").write_bytes(os.urandom(100)), "nsml.db is not a database"),
        (lambda nsml: (nsml / "nsml.db").unlink(), "nsml.db is gone"),
        (lambda nsml: shutil.rmtree(nsml / "blobs"), "blobs is gone"),
        (lambda nsml: shutil.rmtree(nsml / "streams"), "streams is gone"),
        (lambda nsml: (nsml / "nsml.toml").write_text("x = 1"), "nsml.toml sets 'x'"),
    ],
    ids=["half", "empty", "garbage", "gone", "no blobs", "no streams", "unknown setting"],
)
def test_a_damaged_home_is_named_and_never_begun_anew(
    used: Path, tmp_path: Path, damage: Any, named: str
) -> None:
    home = again(used, tmp_path)
    damage(home.nsml)
    for words in (["ps", "-a"], ["up", "--detach"]):
        refused(home(*words), 111, named, str(home.nsml))
    assert home("down", "--all").code == 0


def test_a_write_ahead_log_that_is_cut_costs_no_more_than_its_end(used: Path, tmp_path: Path) -> None:
    home = again(used, tmp_path)
    half(home.nsml / "nsml.db-wal")
    shown = home("ps", "-a", "-q")
    assert shown.text == "alice/None/1\n" or (shown.code == 111 and "nsml.db" in shown.err), shown.everything
    assert home("down", "--all").code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(tmp_path)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("mounts are not allowed here")
    yield tmp_path
    (tmp_path / "filler").unlink(missing_ok=True)
    Home(tmp_path / "home")("down", "--all")
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(file: Path) -> None:
    with file.open("wb") as filler, suppress(OSError):
        while True:
            os.write(filler.fileno(), bytes(1 << 16))


def test_a_full_disk_is_said_and_all_goes_on_once_there_is_room(small_disk: Path) -> None:
    home = Home(small_disk / "home", NSML_GPU="static:1")
    _, row, _ = home.run("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))")
    assert row["cause"] == "disk", row
    assert home("rm", "1").code == 0
    session = home.start(
        "import time\nfor i in range(30): print('line', 'x' * 9000, flush=True); time.sleep(0.1)"
    )
    large = home.code("large", f"x = '{'x' * 500_000}'")
    fill(small_disk / "filler")
    time.sleep(3)
    refused(home("run", "-g", "0", cwd=large), 111, "is full", "Free some")
    assert "nearly full" in home("status").text
    (small_disk / "filler").unlink()
    home.until(lambda: home.row(session)["status"] == "completed")
    assert home("logs", session).text.count("line") == 30
    assert home.run(MAIN)[1]["exit"] == 0
    assert "Traceback" not in (home.nsml / "platform.log").read_text()
