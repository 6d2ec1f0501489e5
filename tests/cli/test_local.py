"""The platform of a home: one, started when needed, ended when asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nsml_cli import local


class Home:
    """A home of its own, and commands typed in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NSML_")}
        self.env = {**kept, "HOME": str(path), "NO_COLOR": "1", "XDG_CONFIG_HOME": str(path / "config")}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nsml_cli.main", *words],
            env=self.env,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made("down", "--all")


def test_commands_that_race_start_one_platform(home: Home) -> None:
    with ThreadPoolExecutor(5) as pool:
        done = list(pool.map(lambda _: home("status", "--json"), range(5)))
    assert [one.returncode for one in done] == [0] * 5, done
    assert len({json.loads(one.stdout)["pid"] for one in done}) == 1
    assert sum("Started the local platform" in one.stderr for one in done) == 1
    assert (home.path / ".nsml").stat().st_mode & 0o077 == 0

    again = home("up", "--detach")
    assert again.returncode == 1 and str(json.loads(done[0].stdout)["pid"]) in again.stderr
    assert home("up").returncode == 1
    ended = home("down")
    assert ended.returncode == 0 and "has ended" in ended.stdout
    assert "No platform runs" in home("down").stdout


def test_a_platform_that_cannot_start_says_why(home: Home) -> None:
    (home.path / ".nsml").mkdir()
    (home.path / ".nsml" / "nsml.toml").write_text("nodee = 'n1'\n")
    done = home("ps")
    assert done.returncode == 111 and "nodee" in done.stderr and "Traceback" not in done.stderr
    assert home("ps", "--json").returncode == 111


def test_up_refuses_unknown_roles(home: Home) -> None:
    assert home("up", "--detach", "--roles", "api,cook").returncode == 2


def test_a_process_that_nobody_has_buried_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not local._is_alive(child.pid)
    child.wait()
    assert not local._is_alive(child.pid) and local._is_alive(os.getpid())


def test_down_all_stops_the_sessions(home: Home) -> None:
    (home.path / "main.py").write_text("import time\ntime.sleep(60)\n")
    session = json.loads(home("run", "-g", "0", "--json").stdout)["session"]
    done = home("down", "--all")
    assert done.returncode == 0 and f"{session}: stopping" in done.stderr
    rows = json.loads(home("ps", "-a", "--json").stdout)
    assert [(row["session"], row["status"]) for row in rows] == [(session, "stopped")]
