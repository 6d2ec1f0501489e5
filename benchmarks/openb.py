"""How much of a cluster's GPUs gets allocated: the openb traces of Alibaba (Weng et al., ATC'23) replayed.

    python benchmarks/openb.py PATH [--seeds 42,43,44] [--traces default,multigpu50,gpuspec33]

Protocol: the tasks of a trace, sorted by name and shuffled by the seed, are drawn with replacement until
130 % of the cluster's 6,212 GPUs were asked for. They arrive one by one, none leaves, and one that fits
nowhere is dropped. A task asks for `num_gpu` GPUs of `gpu_milli` thousandths each, as in the paper, so GPUs
are shared here; of a `gpu_spec` any model named will do. The mix of requests is that of the trace's tasks.
Places are found by the code and the weights by which the scheduler places sessions (`Placing()`).
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nsml.core.resources import Capacity, Gpu
from nsml.scheduler.feasible import Ask
from nsml.scheduler.floor import Floor, Wish
from nsml.scheduler.placement import supply
from nsml.scheduler.policy import Placing
from nsml.scheduler.rank import Rank
from nsml.scheduler.snapshot import Host, mix_of

MIB = 1 << 20
ASKED = 1.3  # of the cluster's GPUs


@dataclass(frozen=True)
class Share:
    """GPUs allocated, as parts of the cluster's, when all of them and when 130 % were asked for."""

    full: float
    over: float
    dropped: int


def hosts(path: Path) -> tuple[Host, ...]:
    return tuple(host(row) for row in rows(path / "openb_node_list_gpu_node.csv"))


def host(row: dict[str, str]) -> Host:
    count, cpus, memory = int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"]) * MIB
    gpus = tuple(Gpu(index=i, uuid=f"{row['sn']}-{i}", model=row["model"]) for i in range(count))
    capacity = Capacity(gpus=gpus, cpus=cpus / 1000, memory=memory)
    free = tuple((gpu.index, gpu.model) for gpu in gpus)
    return Host(id=row["sn"], capacity=capacity, gpus=free, cpus=cpus, memory=memory)


def tasks(path: Path, trace: str) -> list[Ask]:
    return [
        ask(row) for row in sorted(rows(path / f"openb_pod_list_{trace}.csv"), key=lambda row: row["name"])
    ]


def ask(row: dict[str, str]) -> Ask:
    gpus = int(row["num_gpu"])
    return Ask(
        gpus=gpus,
        share=int(row["gpu_milli"]) if gpus else 1000,
        cpus=int(row["cpu_milli"]),
        memory=int(row["memory_mib"]) * MIB,
        model=(row.get("gpu_spec") or "") if gpus else "",
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def arrivals(asks: list[Ask], seed: int, most: float) -> Iterator[Ask]:
    """Tasks drawn with replacement, until *most* thousandths of GPUs were asked for."""
    chance = random.Random(seed)
    shuffled = list(asks)
    chance.shuffle(shuffled)
    asked = 0
    while asked < most:
        drawn = chance.choice(shuffled)
        asked += drawn.gpu_share
        yield drawn


def replay(nodes: tuple[Host, ...], asks: list[Ask], seed: int) -> Share:
    total = 1000 * sum(len(node.gpus) for node in nodes)
    floor = Floor(nodes, Rank(mix_of(asks), supply(nodes), Placing().weights))
    asked = allocated = dropped = full = 0
    for number, wanted in enumerate(arrivals(asks, seed, ASKED * total)):
        asked += wanted.gpu_share
        if floor.place(str(number), Wish(wanted, ()), 1) is None:
            dropped += 1
        else:
            allocated += wanted.gpu_share
        if not full and asked >= total:
            full = allocated
    return Share(full / total, allocated / total, dropped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--traces", default="default,multigpu50,gpuspec33")
    options = parser.parse_args()
    nodes = hosts(options.path)
    print(f"{'trace':12} {'seed':>4} {'at 100 %':>9} {'at 130 %':>9} {'dropped':>8} {'seconds':>8}")
    for trace in options.traces.split(","):
        asks = tasks(options.path, trace)
        found = []
        for seed in map(int, options.seeds.split(",")):
            began = time.perf_counter()
            share = replay(nodes, asks, seed)
            found.append(share)
            took = time.perf_counter() - began
            print(
                f"{trace:12} {seed:4} {share.full:9.2%} {share.over:9.2%} {share.dropped:8} {took:8.1f}",
                flush=True,
            )
        full = sum(s.full for s in found) / len(found)
        over = sum(s.over for s in found) / len(found)
        print(f"{trace:12} mean {full:9.2%} {over:9.2%}")


if __name__ == "__main__":
    main()
