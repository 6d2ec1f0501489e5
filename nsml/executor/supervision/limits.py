"""What a session may use, and whether it uses more."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

from nsml.executor.supervision.cgroups import Group
from nsml.executor.supervision.processes import descendants, proportional, resident, tasks_of_user

FIRST_LOOK, LOOK_EVERY = 0.1, 0.25  # seconds: a process that eats 2 GB/s gets 0.5 GB too far
LOOK_WITH_GROUPS = 0.5  # the kernel keeps the limits; we only read that it did
SPARE = 64  # processes over the limit, so that a bomb is seen to be over it
DISK_EVERY = 2.0  # seconds between walks over the run folder, more when a walk is slow


class Watch:
    """Looks at a running session now and then; `look` says which limit it is over."""

    def __init__(self, folder: str, limits: dict[str, Any], group: Group) -> None:
        self._folder = folder
        self._memory = int(limits.get("memory", 0))
        self._processes = int(limits.get("processes", 0))
        self._disk = int(limits.get("disk", 0))
        self._group = group
        self._disk_at = time.monotonic() + DISK_EVERY
        self._shares_at = 0.0
        self._told = 0
        self.every = FIRST_LOOK

    def look(self) -> tuple[str, str] | None:
        """(cause, sentence) when the session is over a limit that ends it."""
        exact = self._group.memory and self._group.pids
        self.every = LOOK_WITH_GROUPS if exact else LOOK_EVERY
        found = self._look_at_groups()
        if found is None and not exact:
            found = self._look_at_processes()
        if found is None and self._disk and time.monotonic() >= self._disk_at:
            found = self.look_at_disk()
        return found

    def child_killed(self) -> bool:
        """Whether the kernel killed a process for its memory since this was last asked."""
        told, self._told = self._told, self._group.killed_for_memory()
        return self._told > told

    def look_at_disk(self, share: float = 1.0) -> tuple[str, str] | None:
        """Whether the run folder holds *share* of what it may."""
        began = time.monotonic()
        used = disk_used(self._folder, self._disk)
        self._disk_at = time.monotonic() + max(DISK_EVERY, 20 * (time.monotonic() - began))
        if self._disk and used >= share * self._disk:
            return "disk", self.too_much()
        return None

    def _look_at_groups(self) -> tuple[str, str] | None:
        if self._processes and self._group.refused_forks():
            return "processes", self.too_many()
        return None

    def _look_at_processes(self) -> tuple[str, str] | None:
        pids = descendants(os.getpid())
        if self._processes and len(pids) > self._processes:
            return "processes", self.too_many()
        if self._memory and not self._group.memory and self._over_memory(pids):
            return "oom", self.out_of_memory()
        return None

    def _over_memory(self, pids: list[int]) -> bool:
        if resident(pids) <= self._memory or time.monotonic() < self._shares_at:
            return False
        self._shares_at = time.monotonic() + 1.0  # reading shares is slow: once a second
        return proportional(pids) > self._memory

    def out_of_memory(self) -> str:
        return f"out of memory (limit {size(self._memory)})"

    def too_much(self) -> str:
        return f"it wrote more than the {size(self._disk)} of disk it may use"

    def too_many(self) -> str:
        return f"it started more than the {self._processes} processes it may have"


def confine(limits: dict[str, Any], count: bool) -> None:
    """Limits that the kernel keeps for each process of the session; called in the child before it starts.

    With *count* nothing else keeps the number of processes: the kernel then counts those of the whole user
    (for root it does not), so what runs already comes on top, and some to be seen over the limit.
    """
    files, disk = int(limits.get("files", 0)), int(limits.get("disk", 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files:
        files = files if most == resource.RLIM_INFINITY else min(files, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
    most_processes = int(limits.get("processes", 0))
    if count and most_processes and os.geteuid() != 0:
        _, most = resource.getrlimit(resource.RLIMIT_NPROC)
        wanted = most_processes + tasks_of_user() + SPARE
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NPROC, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def disk_used(folder: str, enough: int) -> int:
    """Bytes of disk below *folder*, datasets aside; stops counting at *enough*."""
    total, queue = 0, [folder]
    while queue and total < max(enough, 1):
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path != os.path.join(folder, "data"):
                            queue.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total


def size(count: int) -> str:
    """Bytes for people: `300 MB`."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1024 or unit == "TB":
            break
        value /= 1024
    return f"{round(value, 2):g} {unit}"
