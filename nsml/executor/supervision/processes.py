"""Processes as /proc shows them: who they are, whose children, how much memory they hold."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
BOOT = "/proc/sys/kernel/random/boot_id"


def start_time(pid: int) -> int | None:
    """When *pid* began, in clock ticks since boot; None when it is gone. With the pid it names a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if after[0] in (b"Z", b"X") else int(after[19])


def identity(pid: int) -> dict[str, Any]:
    """What names the process *pid* for good: a pid alone is given out again."""
    return {"pid": pid, "start": start_time(pid), "boot": boot()}


def is_alive(who: dict[str, Any]) -> bool:
    """Whether the process that `identity` described still runs."""
    return bool(who["boot"] == boot() and start_time(who["pid"]) == who["start"] is not None)


@lru_cache(maxsize=1)
def boot() -> str:
    """The id of this boot of the machine."""
    with open(BOOT) as file:
        return file.read().strip()


def descendants(root: int) -> list[int]:
    """Every process below *root*, zombies too. Complete when *root* is a subreaper."""
    if not os.path.exists(f"/proc/{root}/task/{root}/children"):
        return _descendants_by_parent(root)
    found, queue = [], [root]
    while queue:
        children = _children(queue.pop())
        found += children
        queue += children
    return found


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def _descendants_by_parent(root: int) -> list[int]:
    """The same on a kernel that does not list children: from every process's parent."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def resident(pids: list[int]) -> int:
    """Bytes of memory that *pids* hold, pages they share counted for each."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                total += int(file.read().split()[1])
        except (OSError, IndexError):
            continue
    return total * PAGE


def proportional(pids: list[int]) -> int:
    """Bytes of memory that *pids* hold, shared pages counted once. Slower than `resident`."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith(b"Pss:"))
        except (OSError, StopIteration):
            continue
    return total << 10


def tasks_of_user() -> int:
    """How many threads this user has, in all processes."""
    user, count = os.geteuid(), 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}").st_uid == user:
                    count += len(os.listdir(f"/proc/{entry}/task"))
            except OSError:
                continue
    return count


def mentioning(text: str) -> list[int]:
    """Processes whose environment mentions *text*: what a supervisor that was killed left behind."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if os.fsencode(text) in file.read():
                        found.append(int(entry))
            except OSError:
                continue
    return found
