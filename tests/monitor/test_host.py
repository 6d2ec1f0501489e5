"""What the machine has, told by made-up /proc and control group files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsml.monitor.host import Host, boot

MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    6000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def machine(tmp_path):
    """Writes files of a machine; `machine("proc/stat", text)`."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", MEMINFO)
    write("proc/self/cgroup", "0::/\n")
    return write


def host(root: Path) -> Host:
    return Host(root / "home", root / "proc", root / "cgroup")


def our_cpus() -> int:
    return len(os.sched_getaffinity(0))


def test_a_machine_without_limits_gives_all_it_has(machine, tmp_path):
    assert host(tmp_path).cpus() == our_cpus()
    assert host(tmp_path).memory() == 16000 * 1024


def test_version_2_limits_of_our_group_and_those_around_it_hold(machine, tmp_path):
    machine("proc/self/cgroup", "0::/user/ours\n")
    machine("cgroup/user/ours/cpu.max", "max 100000\n")
    machine("cgroup/user/cpu.max", "50000 100000\n")
    machine("cgroup/user/ours/memory.max", "8192000\n")
    machine("cgroup/user/memory.max", "max\n")
    assert host(tmp_path).cpus() == 0.5
    assert host(tmp_path).memory() == 8192000


def test_version_1_limits_hold(machine, tmp_path):
    machine("proc/self/cgroup", "4:memory:/box\n1:cpu,cpuacct:/box\n")
    machine("cgroup/cpu/box/cpu.cfs_quota_us", "25000\n")
    machine("cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    machine("cgroup/memory/box/memory.limit_in_bytes", "4096000\n")
    assert host(tmp_path).cpus() == 0.25
    assert host(tmp_path).memory() == 4096000


def test_version_1_says_no_limit_in_its_own_way(machine, tmp_path):
    machine("proc/self/cgroup", "4:memory:/\n1:cpu,cpuacct:/\n")
    machine("cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    machine("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    machine("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert host(tmp_path).cpus() == our_cpus()
    assert host(tmp_path).memory() == 16000 * 1024


def test_a_container_whose_path_is_the_one_outside_finds_its_limits_at_the_root(machine, tmp_path):
    machine("proc/self/cgroup", "0::/kubepods/pod1/abc\n")
    machine("cgroup/memory.max", "8192000\n")
    assert host(tmp_path).memory() == 8192000


def test_a_path_out_of_the_mount_is_not_followed(machine, tmp_path):
    machine("proc/self/cgroup", "0::/../../etc\n")
    assert host(tmp_path).memory() == 16000 * 1024


def test_the_cpu_load_is_that_since_the_last_look(machine, tmp_path):
    machine("proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    ours = host(tmp_path)
    assert ours.load().cpu_percent is None
    machine("proc/stat", "cpu  150 0 125 710 115 0 0 0 0 0\n")
    assert ours.load().cpu_percent == 75.0
    assert ours.load().cpu_percent == 0.0


def test_memory_in_use_does_not_count_what_caches_would_give_back(machine, tmp_path):
    assert host(tmp_path).load().memory_used == 10000 * 1024
    machine("cgroup/memory.max", "8192000\n")
    machine("cgroup/memory.current", "5000\n")
    machine("cgroup/memory.stat", "anon 3000\ninactive_file 1000\n")
    assert host(tmp_path).load().memory_used == 4000


def test_the_free_disk_is_told_before_the_home_exists(machine, tmp_path):
    free = host(tmp_path).load().disk_free
    assert free is not None and free > 0


def test_a_machine_that_tells_nothing_is_no_error(tmp_path):
    ours = host(tmp_path)
    assert ours.memory() == 0 and ours.cpus() == our_cpus()
    assert (ours.load().cpu_percent, ours.load().memory_used) == (None, None)


def test_this_very_machine_can_be_read(tmp_path):
    ours = Host(tmp_path)
    assert ours.cpus() > 0 and ours.memory() > 1 << 20
    load = ours.load()
    assert load.memory_used and load.disk_free


def test_the_boot_changes_with_the_kernel_and_with_the_process(machine, tmp_path):
    started = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 {} 20\n"
    machine("proc/sys/kernel/random/boot_id", "one\n")
    machine("proc/self/stat", started.format(777))
    first = boot(tmp_path / "proc")
    assert first == "one.777"
    machine("proc/self/stat", started.format(778))
    assert boot(tmp_path / "proc") != first
    assert boot() == boot()
