"""How long people wait: the Philly trace (Jeon et al., ATC'19) replayed on 80 nodes of 8 GPUs.

    python benchmarks/philly.py PATH/philly.csv [--nodes 80] [--limit N]

Sessions arrive at their times with their GPUs; those over 8 GPUs are gangs over several whole nodes. The
trace's virtual clusters are the owners among whom shares are kept fair. Each event is followed by a pass of
the scheduler's own `plan()` with its default policy, which does not know how long sessions run; nothing is
preempted, as all have one priority. Completion time is waiting and running.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nsml.core.resources import Capacity, Gpu, Request
from nsml.scheduler.fairness import remember
from nsml.scheduler.feasible import Ask, ask_of
from nsml.scheduler.placement import Place, plan
from nsml.scheduler.policy import Placing
from nsml.scheduler.snapshot import Holder, Host, Snapshot, Waiting, mix_of

GPUS = 8  # of a node


@dataclass(frozen=True)
class Job:
    """One row: when it came (seconds), how long it ran, its GPUs, whose it is."""

    number: int
    at: float
    seconds: float
    gpus: int
    owner: str

    @property
    def request(self) -> Request:
        nodes = -(-self.gpus // GPUS)
        return Request(gpus=-(-self.gpus // nodes), nodes=nodes)


def jobs(path: Path, most: int) -> list[Job]:
    found = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["timestamp"]).timestamp()
            found.append((at, float(row["duration"]), int(row["num_gpus"]), row["cluster"]))
    found.sort(key=lambda job: job[0])
    return [Job(number, *job) for number, job in enumerate(found[:most] if most else found)]


@dataclass
class World:
    """The cluster as the simulation keeps it: hosts are made anew only when something changed on them."""

    hosts: dict[str, Host]
    waiting: dict[str, Waiting] = field(default_factory=dict)
    holders: dict[str, Holder] = field(default_factory=dict)
    free: dict[str, set[int]] = field(default_factory=dict)
    past: dict[str, float] = field(default_factory=dict)

    def snapshot(self, now: float) -> Snapshot:
        waiting = tuple(self.waiting.values())
        asks: list[Ask] = [*[h.ask for h in self.holders.values()], *[w.ask for w in waiting]]
        return Snapshot(
            now=now,
            hosts=tuple(self.hosts.values()),
            waiting=waiting,
            holders=tuple(self.holders.values()),
            past=self.past,
            mix=mix_of(asks),
        )

    def start(self, place: Place, now: float) -> None:
        waiting = self.waiting.pop(place.session)
        self.holders[place.session] = Holder(
            id=waiting.id,
            owner=waiting.owner,
            priority=0,
            attempt=1,
            slots=place.slots,
            ask=waiting.ask,
            safe=now,
            waited=now - waiting.queued,
        )
        for slot in place.slots:
            taken = self.free[slot.node].intersection(slot.gpus)
            assert len(taken) == len(slot.gpus) == waiting.ask.gpus, "a GPU was given out twice"
            self.free[slot.node] -= taken
            self._changed(slot.node)

    def end(self, session: str) -> None:
        for slot in self.holders.pop(session).slots:
            self.free[slot.node] |= set(slot.gpus)
            self._changed(slot.node)

    def _changed(self, node: str) -> None:
        host = self.hosts[node]
        free = tuple((index, "") for index in sorted(self.free[node]))
        self.hosts[node] = Host(
            id=node, capacity=host.capacity, gpus=free, cpus=host.cpus, memory=host.memory
        )


def cluster(nodes: int) -> World:
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i}") for i in range(GPUS))
    capacity = Capacity(gpus=gpus, cpus=64, memory=512 << 30)
    free = tuple((gpu.index, "") for gpu in gpus)
    names = [f"n{i:02}" for i in range(nodes)]
    hosts = {n: Host(id=n, capacity=capacity, gpus=free, cpus=64_000, memory=512 << 30) for n in names}
    return World(hosts, free={n: set(range(GPUS)) for n in names})


@dataclass(frozen=True)
class Ended:
    job: Job
    waited: float


def replay(trace: list[Job], nodes: int, placing: Placing) -> Iterator[Ended]:
    world = cluster(nodes)
    by_name = {str(job.number): job for job in trace}
    arriving = iter(trace)
    coming = next(arriving, None)
    ends: list[tuple[float, str]] = []
    before = trace[0].at
    while coming or ends:
        now = min(coming.at if coming else float("inf"), ends[0][0] if ends else float("inf"))
        world.past = remember(world.past, world.holders.values(), now - before, placing.fairness)
        before = now
        while ends and ends[0][0] <= now:
            world.end(heapq.heappop(ends)[1])
        while coming and coming.at <= now:
            world.waiting[str(coming.number)] = waits(coming)
            coming = next(arriving, None)
        if not world.waiting:
            continue
        for place in plan(world.snapshot(now), placing).places:
            job = by_name[place.session]
            world.start(place, now)
            heapq.heappush(ends, (now + job.seconds, place.session))
            yield Ended(job, now - job.at)
    assert not world.waiting, "somebody never started"


def waits(job: Job) -> Waiting:
    request = job.request
    return Waiting(
        id=str(job.number),
        owner=job.owner,
        priority=0,
        queued=job.at,
        request=request,
        ask=ask_of(request),
    )


def report(ended: list[Ended]) -> None:
    print(f"\n{'GPUs':>6} {'sessions':>9} {'mean wait':>10} {'p99 wait':>10} {'longest':>10}  (hours)")
    for gpus in sorted({e.job.gpus for e in ended}):
        waits = sorted(e.waited / 3600 for e in ended if e.job.gpus == gpus)
        mean, p99 = sum(waits) / len(waits), waits[int(0.99 * (len(waits) - 1))]
        print(f"{gpus:6} {len(waits):9,} {mean:10.2f} {p99:10.2f} {waits[-1]:10.2f}")
    waited = sum(e.waited for e in ended) / len(ended) / 3600
    ran = sum(e.job.seconds for e in ended) / len(ended) / 3600
    print(f"\n{len(ended):,} sessions: {waited:.2f} h waiting + {ran:.2f} h running = {waited + ran:.2f} h")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--nodes", type=int, default=80)
    parser.add_argument("--limit", type=int, default=0)
    options = parser.parse_args()
    trace = jobs(options.path, options.limit)
    began = time.perf_counter()
    ended: list[Ended] = []
    for one in replay(trace, options.nodes, Placing()):
        ended.append(one)
        if len(ended) % 10_000 == 0:
            print(
                f"{len(ended):,} of {len(trace):,} started, {time.perf_counter() - began:.0f} s", flush=True
            )
    report(ended)


if __name__ == "__main__":
    main()
