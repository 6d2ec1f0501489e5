"""What the machine has and how loaded it is, from /proc, statvfs and the control groups around us."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60  # control groups of version 1 say "no limit" with a number near 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """Percent of the CPUs, bytes of memory in use, bytes free on the home's disk; None where nobody tells."""

    cpu_percent: float | None = None
    memory_used: int | None = None
    disk_free: int | None = None


class Host:
    """This machine as this process may use it; *proc* and *cgroup* are where the kernel tells it."""

    def __init__(self, home: Path, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._home = home
        self._proc = proc
        self._groups = _groups(proc, cgroup)
        self._ticks: tuple[int, int] | None = None

    def cpus(self) -> float:
        """CPU cores: those of our affinity, or fewer where a control group has a quota."""
        quotas = [quota for group in self._groups if (quota := _quota(group)) is not None]
        return round(min([float(len(os.sched_getaffinity(0))), *quotas]), 2)

    def memory(self) -> int:
        """Bytes of memory: the machine's, or fewer where a control group has a limit."""
        limits = [limit for group in self._groups if (limit := _limit(group)) is not None]
        return min([_meminfo(self._proc).get("MemTotal", 0), *limits])

    def load(self) -> HostLoad:
        """The load now; the CPUs' is that since the last call (None the first time)."""
        return HostLoad(
            cpu_percent=self._cpu_percent(), memory_used=self._memory_used(), disk_free=self._disk_free()
        )

    def _cpu_percent(self) -> float | None:
        before, self._ticks = self._ticks, _ticks(self._proc)
        if before is None or self._ticks is None:
            return None
        total, idle = (now - then for now, then in zip(self._ticks, before, strict=True))
        return round(max(0.0, min(100.0, 100.0 * (total - idle) / total)), 1) if total > 0 else 0.0

    def _memory_used(self) -> int | None:
        """What is used in the tightest group with a limit, else on the whole machine; caches not counted."""
        limited = [group for group in self._groups if _limit(group) is not None]
        used = _used(min(limited, key=lambda group: _limit(group) or 0)) if limited else None
        if used is not None:
            return used
        info = _meminfo(self._proc)
        return info["MemTotal"] - info["MemAvailable"] if "MemAvailable" in info else None

    def _disk_free(self) -> int | None:
        there = next((path for path in (self._home, *self._home.parents) if path.exists()), None)
        if there is None:
            return None
        disk = os.statvfs(there)
        return disk.f_bavail * disk.f_frsize


def boot(proc: Path = Path("/proc")) -> str:
    """Other each time the machine or this process starts: the kernel's boot id and our start in ticks."""
    kernel = _text(proc / "sys/kernel/random/boot_id") or "unknown"
    after_name = _text(proc / "self/stat").rpartition(")")[2].split()  # the name before it may have blanks
    return f"{kernel}.{after_name[19] if len(after_name) > 19 else os.getpid()}"


def _text(path: Path) -> str:
    """The stripped text of a kernel file; empty when it is not there or not ours to read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


# -- /proc ------------------------------------------------------------------------------------------
def _meminfo(proc: Path) -> dict[str, int]:
    """The fields of /proc/meminfo in bytes."""
    fields = (line.split() for line in _text(proc / "meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3}


def _ticks(proc: Path) -> tuple[int, int] | None:
    """Clock ticks of all CPUs since boot: (all, idle)."""
    words = _text(proc / "stat").partition("\n")[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]  # guest time after these is counted in user time already
    return sum(ticks), ticks[3] + ticks[4]


# -- control groups ---------------------------------------------------------------------------------
def _groups(proc: Path, root: Path) -> list[Path]:
    """The folders of the groups we are in, and of those around them: any of them may limit us.

    A container sees its own group as the root while /proc/self/cgroup still tells the path outside; the root
    is therefore always among them.
    """
    found: dict[Path, None] = {}
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "/")
        for mount in [root / name for name in controllers.split(",") if name] or [root, root / "unified"]:
            group = mount / path.lstrip("/")
            inside = [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]
            found.update(dict.fromkeys(folder for folder in inside if folder.is_dir()))
    return list(found)


def _quota(group: Path) -> float | None:
    """CPU cores that *group* allows: `cpu.max` (version 2) or `cpu.cfs_quota_us` (version 1)."""
    words = _text(group / "cpu.max").split()
    if len(words) != 2:
        words = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    quota, period = _number(words[0]), _number(words[1])
    cores = quota / period if quota and period else math.inf
    return cores if math.isfinite(cores) else None


def _limit(group: Path) -> int | None:
    """Bytes that *group* allows: `memory.max` (version 2) or `memory.limit_in_bytes` (version 1)."""
    limit = _number(_text(group / "memory.max") or _text(group / "memory.limit_in_bytes"))
    return limit if limit is not None and limit < UNLIMITED else None


def _used(group: Path) -> int | None:
    """Bytes in use in *group*, less the file cache that the kernel would give back."""
    used = _number(_text(group / "memory.current") or _text(group / "memory.usage_in_bytes"))
    if used is None:
        return None
    stat = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
    cache = _number(stat.get("total_inactive_file", stat.get("inactive_file", ""))) or 0
    return max(0, used - cache)
