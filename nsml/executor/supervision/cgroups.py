"""Control groups of version 1 and 2, where this user may make them: memory, processes, CPU share."""

from __future__ import annotations

import errno
import os
import time


def find() -> dict[str, str]:
    """Where groups can be made; empty when nowhere. Tried by making one."""
    found = {name: folder for name, folder in _version_1().items() if _works(folder)}
    if "memory" not in found:
        found.update(_version_2())
    return found


def _mounts() -> list[tuple[str, str, str, set[str]]]:
    """(type, root, folder, options) of each mounted hierarchy."""
    mounted = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(None, 2)
            if kind.startswith("cgroup"):
                words = before.split()
                mounted.append((kind, words[3], words[4], set(options.strip().split(","))))
    return mounted


def _own() -> dict[str, str]:
    """The group of this process in each hierarchy, by controller; "" is version 2."""
    own = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                own[controller] = path
    return own


def _version_1() -> dict[str, str]:
    own = _own()
    found: dict[str, str] = {}
    for kind, root, folder, options in _mounts():
        for controller in ("memory", "pids", "cpu"):
            if kind == "cgroup" and controller in options and controller in own:
                found[controller] = _below(folder, root, own[controller])
    return found


def _version_2() -> dict[str, str]:
    for kind, root, folder, _ in _mounts():
        if kind != "cgroup2":
            continue
        for parent in (_below(folder, root, _own().get("", "/")), folder):
            if _controls(parent) and _works(parent):
                return {"v2": parent}
    return {}


def _below(folder: str, root: str, path: str) -> str:
    """Where the group *path* is seen when *root* of its hierarchy is mounted at *folder*."""
    inner = os.path.relpath(path, root) if root != "/" else path.lstrip("/")
    seen = os.path.normpath(os.path.join(folder, inner))
    return seen if os.path.isdir(seen) and seen.startswith(folder) else folder


def _controls(parent: str) -> bool:
    """Whether groups below *parent* have memory and pids; switched on if that is allowed."""
    control = os.path.join(parent, "cgroup.subtree_control")
    try:
        if not {"memory", "pids"} <= set(_read(control).split()):
            _write(control, "+memory +pids")
    except OSError:
        return False
    return True


def _works(parent: str) -> bool:
    trial = os.path.join(parent, f"nsml-trial-{os.getpid()}")
    try:
        os.mkdir(trial)
        os.rmdir(trial)
    except OSError:
        return False
    return True


class Group:
    """The groups of one session; every method is harmless where a controller is missing."""

    def __init__(self, controllers: dict[str, str], name: str) -> None:
        self._folders = {key: os.path.join(parent, name) for key, parent in controllers.items()}
        self._v2 = self._folders.get("v2", "")
        self.memory = self._v2 or self._folders.get("memory", "")
        self.pids = self._v2 or self._folders.get("pids", "")

    def make(self, memory: int, processes: int, cpus: float) -> None:
        if not cpus:
            self._folders.pop("cpu", None)
        for key, folder in list(self._folders.items()):
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError:
                del self._folders[key]
        self.memory = self._v2 or self._folders.get("memory", "")
        self.pids = self._v2 or self._folders.get("pids", "")
        if memory and not self._limit(memory):
            self.memory = ""
        if processes and self.pids and not _put(self.pids, "pids.max", str(processes)):
            self.pids = ""
        if cpus and "cpu" in self._folders:
            _put(self._folders["cpu"], "cpu.shares", str(max(2, int(1024 * cpus))))

    def _limit(self, memory: int) -> bool:
        if self._v2:
            _put(self._v2, "memory.swap.max", "0")
            return _put(self._v2, "memory.max", str(memory))
        if not self.memory or not _put(self.memory, "memory.limit_in_bytes", str(memory)):
            return False
        _put(self.memory, "memory.memsw.limit_in_bytes", str(memory))
        return True

    def enter(self) -> None:
        """Put the calling process in. Raises `OSError`."""
        for folder in self._folders.values():
            _write(os.path.join(folder, "cgroup.procs"), "0")

    def killed_for_memory(self) -> int:
        """How many processes the kernel killed for going over the limit."""
        return _counter(self.memory, "memory.events" if self._v2 else "memory.oom_control", "oom_kill")

    def refused_forks(self) -> int:
        """How often a process could not be made for the limit."""
        return _counter(self.pids, "pids.events", "max")

    def stop_forks(self) -> None:
        """No process of the group makes another one from now on."""
        if self.pids:
            _put(self.pids, "pids.max", "0")

    def members(self) -> set[int]:
        """The processes in any of the groups."""
        found: set[int] = set()
        for folder in self._folders.values():
            try:
                found.update(map(int, _read(os.path.join(folder, "cgroup.procs")).split()))
            except OSError:
                continue
        return found

    def remove(self) -> None:
        """Take the groups away; their last members may need a moment to be gone."""
        for folder in self._folders.values():
            for pause in (0.0, 0.001, 0.01, 0.1, 0.5):
                time.sleep(pause)
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        break
                else:
                    break


def _counter(folder: str, name: str, key: str) -> int:
    if not folder:
        return 0
    try:
        lines = _read(os.path.join(folder, name)).splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == key), 0)


def _put(folder: str, name: str, value: str) -> bool:
    try:
        _write(os.path.join(folder, name), value)
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
