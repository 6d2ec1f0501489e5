"""Supervisors where the machine allows neither control groups nor mounts; and that none is lost without a word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import until

from nsml.clock import SystemClock
from nsml.core.ports import Exit, Limits, RunSpec
from nsml.executor.nursery import PROGRAM
from nsml.executor.process import ProcessExecutor
from nsml.executor.supervision.limits import disk_used

BARE = """
import sys
import time
from nsml.executor.supervision import session
session.supervise(sys.argv[1], session.Tools({}, False))
"""
LIMITS = {"memory": 0, "processes": 0, "cpus": 0, "log": 0, "seconds": 0, "files": 0, "disk": 0}


def supervised(folder: Path, script: str, mounts: list[dict[str, str]] | None = None, **limits: Any) -> Exit:
    """Run *script* under a supervisor that finds no control groups and cannot mount."""
    spec = {
        "argv": [sys.executable, "-u", "-c", script],
        "cwd": str(folder),
        "env": [],
        "mounts": mounts or [],
        "limits": LIMITS | limits,
        "group": "none",
    }
    (folder / "run.json").write_text(json.dumps(spec))
    subprocess.run([sys.executable, "-c", BARE, str(folder)], check=True, timeout=30)
    return Exit(**json.loads((folder / "exit.json").read_text()))


def test_memory_is_watched_where_the_kernel_does_not_limit_it(tmp_path: Path) -> None:
    script = "import time\nkept = []\nwhile True: kept.append(b'x' * (8 << 20)); time.sleep(0.01)"
    found = supervised(tmp_path, script, memory=128 << 20)
    assert (found.code, found.cause) == (137, "oom")


def test_shared_memory_of_many_processes_counts_once(tmp_path: Path) -> None:
    script = """
import os, time
kept = b'x' * (64 << 20)
for _ in range(6):
    if os.fork() == 0:
        time.sleep(1); os._exit(0)
time.sleep(0.8)
print('fine')
"""
    assert supervised(tmp_path, script, memory=200 << 20).code == 0


def test_processes_are_counted_where_the_kernel_does_not(tmp_path: Path) -> None:
    script = "import os, time\nfor _ in range(100):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    found = supervised(tmp_path, script, processes=50)
    assert found.cause == "processes"


def test_a_fork_bomb_ends_soon_where_the_kernel_does_not_count(tmp_path: Path) -> None:
    script = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    began = time.monotonic()
    assert supervised(tmp_path, script, processes=100).cause == "processes"
    assert time.monotonic() - began < 15


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a copy")
def test_without_mounts_root_sees_a_copy(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x").write_text("precious")
    mounts = [{"source": str(tmp_path / "shared"), "target": str(tmp_path / "view")}]
    found = supervised(tmp_path, "open('view/x', 'a').write('!'); print(open('view/x').read())", mounts)
    assert found.code == 0
    assert (tmp_path / "shared" / "x").read_text() == "precious"


def test_disk_in_use_leaves_the_datasets_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big").write_bytes(b"x" * (1 << 20))
    (tmp_path / "small").write_bytes(b"x" * 4096)
    assert 4096 <= disk_used(tmp_path.as_posix(), 1 << 30) < (1 << 20)


def a_spec(root: Path, name: str = "alice~None~1~1") -> RunSpec:
    folder = root / name
    return RunSpec(
        attempt=name,
        folder=str(folder),
        argv=(sys.executable, "-c", "import time; time.sleep(60)"),
        cwd="/",
        env=(("NSML_SPOOL", f"{folder}/spool"),),
        limits=Limits(),
    )


async def test_a_killed_supervisor_takes_its_session_along_and_is_told_as_lost(tmp_path: Path) -> None:
    async with ProcessExecutor(tmp_path, SystemClock()) as executor:
        spec = a_spec(tmp_path)
        await executor.start(spec)
        supervisor = json.loads((Path(spec.folder) / "pid").read_text())["pid"]
        await until(lambda: len(_children(supervisor)) == 1)
        (program,) = _children(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        assert (await executor.wait(spec.attempt)).cause == "lost"
        await until(lambda: not Path(f"/proc/{program}").exists() or _is_zombie(program))


async def test_a_killed_nursery_costs_nothing(tmp_path: Path) -> None:
    async with ProcessExecutor(tmp_path, SystemClock()) as executor:
        first, second = a_spec(tmp_path), a_spec(tmp_path, "alice~None~2~1")
        await executor.start(first)
        process = executor._nursery._process
        assert process
        process.kill()
        await asyncio.to_thread(process.wait)
        await until(lambda: executor._nursery._socket is None)
        await executor.start(second)
        assert [held.running for held in await executor.held()] == [True, True]
        for spec in (first, second):
            await executor.reap(spec.attempt)


def test_a_session_starts_even_if_whoever_asked_is_gone_by_then(tmp_path: Path) -> None:
    run = {"argv": ["/bin/true"], "cwd": "/", "env": [], "mounts": [], "limits": LIMITS, "group": "none"}
    (tmp_path / "run.json").write_text(json.dumps(run))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(json.dumps({"n": 1, "folder": str(tmp_path)}).encode())
    ours.close()
    with theirs:
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())]
        subprocess.run(command, pass_fds=[theirs.fileno()], check=True, timeout=10)
    end = time.monotonic() + 10
    while not (tmp_path / "exit.json").exists():
        assert time.monotonic() < end
    assert not (tmp_path / "supervisor.err").exists()


async def test_a_pid_that_is_somebody_elses_by_now_is_neither_waited_for_nor_signalled(
    tmp_path: Path,
) -> None:
    async with ProcessExecutor(tmp_path, SystemClock()) as executor:
        folder = tmp_path / "alice~None~1~1"
        folder.mkdir()
        impostor = {
            "pid": os.getpid(),
            "start": 1,
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text(),
        }
        (folder / "pid").write_text(json.dumps(impostor))
        async with asyncio.timeout(5):
            await executor.stop(folder.name, grace=0)
        assert (await executor.wait(folder.name)).cause == "lost"


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()
