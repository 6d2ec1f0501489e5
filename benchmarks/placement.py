"""How fast sessions are placed: one `plan()` that fills a cluster of 100, 1,000 and 10,000 nodes of 8 GPUs.

    python benchmarks/placement.py [--nodes 100,1000,10000] [--rounds 5]

Sessions of 40 owners, three priorities and nine kinds of request (1 to 8 GPUs, some with CPUs and memory,
some on two nodes) wait until there is about as much asked for as there is. Times are of the whole `plan()`,
order and buckets included, in CPU time of this process; the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import gc
import random
import time

from nsml.core.resources import GIB, Capacity, Gpu, Request
from nsml.scheduler.feasible import ask_of
from nsml.scheduler.placement import Plan, plan
from nsml.scheduler.policy import Placing
from nsml.scheduler.snapshot import Host, Snapshot, Waiting, mix_of

REQUESTS = (
    (40, Request(gpus=1)),
    (15, Request(gpus=1, cpus=8, memory=64 * GIB)),
    (10, Request(gpus=1, cpus=4, memory=16 * GIB)),
    (12, Request(gpus=2)),
    (5, Request(gpus=2, cpus=16, memory=128 * GIB)),
    (8, Request(gpus=4)),
    (5, Request(gpus=8)),
    (2, Request(gpus=8, cpus=64, memory=512 * GIB)),
    (3, Request(gpus=8, nodes=2)),
)


def cluster(nodes: int) -> Snapshot:
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i}", model="A100") for i in range(8))
    capacity = Capacity(gpus=gpus, cpus=96, memory=1024 * GIB)
    free = tuple((gpu.index, gpu.model) for gpu in gpus)
    hosts = tuple(
        Host(id=f"n{i:05}", capacity=capacity, gpus=free, cpus=96_000, memory=1024 * GIB)
        for i in range(nodes)
    )
    chance = random.Random(7)
    waiting: list[Waiting] = []
    asked = 0
    while asked < 8 * nodes:
        request = chance.choices([r for _, r in REQUESTS], [w for w, _ in REQUESTS])[0]
        asked += request.gpus * request.nodes
        waiting.append(
            Waiting(
                id=f"u{chance.randrange(40)}/d/{len(waiting)}",
                owner=f"u{chance.randrange(40)}",
                priority=chance.choice((0, 0, 0, 1, 5)),
                queued=float(len(waiting)),
                request=request,
                ask=ask_of(request),
            )
        )
    mix = mix_of([session.ask for session in waiting])
    return Snapshot(now=1e6, hosts=hosts, waiting=tuple(waiting), mix=mix)


def measure(snapshot: Snapshot) -> tuple[float, Plan]:
    gc.collect()
    began = time.process_time()
    made = plan(snapshot, Placing())
    return time.process_time() - began, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", default="100,1000,10000")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{'nodes':>7} {'sessions':>9} {'placed':>8} {'GPUs given':>11} "
        f"{'placements/s':>13} {'µs each':>8} {'to 1,000':>10}"
    )
    clusters = {int(nodes): cluster(int(nodes)) for nodes in options.nodes.split(",")}
    gc.freeze()  # what is asked for is older than the plan, as in a scheduler that has run for a while
    times: dict[int, float] = dict.fromkeys(clusters, float("inf"))
    plans: dict[int, Plan] = {}
    for _ in range(options.rounds):
        for nodes, snapshot in clusters.items():
            seconds, plans[nodes] = measure(snapshot)
            times[nodes] = min(times[nodes], seconds)
    first = None
    for nodes, made in plans.items():
        given = sum(len(slot.gpus) for place in made.places for slot in place.slots)
        placed, each = len(made.places), times[nodes] / len(made.places)
        first = each if nodes == 1000 else first
        ratio = f"{each / first:10.2f}" if first else f"{'-':>10}"
        print(
            f"{nodes:7,} {len(clusters[nodes].waiting):9,} {placed:8,} {given / (8 * nodes):11.1%} "
            f"{1 / each:13,.0f} {each * 1e6:8.1f} {ratio}"
        )


if __name__ == "__main__":
    main()
