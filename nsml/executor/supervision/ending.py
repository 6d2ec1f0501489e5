"""The end of a session's processes, daemons and fork bombs too: killed until none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Callable, List, Set

from nsml.executor.supervision.cgroups import Group
from nsml.executor.supervision.processes import descendants

GIVE_UP = 60.0  # seconds after which a process that SIGKILL does not end (stuck in the kernel) is left
MANY = 16  # processes; more may be a bomb, which grows faster than it can be killed one by one
MOST_PASSES = 200


def kill_all(group: Group, reap: Callable[[], bool]) -> None:
    """Kill every descendant of this process; *reap* collects what has ended and tells whether any is left."""
    began, pause = time.monotonic(), 0.0005
    while reap() and time.monotonic() - began < GIVE_UP:
        group.stop_forks()
        pids = descendants(os.getpid())
        if len(pids) > MANY:
            _hurry()
            pids = _stop(pids)
        for pid in pids:
            _send(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.05, pause * 2)


def _stop(pids: List[int]) -> List[int]:
    """Stop *pids* and whatever they forked meanwhile; all of them. What is stopped forks no more, and still
    counts against the limit of processes, so that it is not replaced."""
    seen: Set[int] = set()
    for _ in range(MOST_PASSES):
        new = [pid for pid in pids if pid not in seen]
        if not new:
            break
        for pid in new:
            _send(pid, signal.SIGSTOP)
        seen.update(new)
        pids = descendants(os.getpid())
    return pids


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _hurry() -> None:
    """Go before everything else while thousands of processes want the processor too; root only."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
