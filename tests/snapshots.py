"""Builders of snapshots for tests of the scheduler: nodes, who waits, who holds."""

from __future__ import annotations

import random
from typing import Any

from nsml.core.node import Node, NodeState
from nsml.core.resources import GIB, Capacity, Gpu, Request, Slot
from nsml.scheduler.feasible import ask_of
from nsml.scheduler.snapshot import Holder, Snapshot, Waiting, snapshot

NOW = 1_000_000.0


def a_node(name: str = "n1", gpus: int = 4, model: str = "V100", **changes: Any) -> Node:
    capacity = Capacity(
        gpus=tuple(Gpu(index=i, uuid=f"{name}-{i}", model=model) for i in range(gpus)),
        cpus=changes.pop("cpus", 16.0),
        memory=changes.pop("memory", 64 * GIB),
    )
    values: dict[str, Any] = {"id": name, "state": NodeState.READY, "capacity": capacity, **changes}
    return Node(**values)


def waiting(
    name: str, gpus: int = 1, *, priority: int = 0, queued: float = NOW - 1, **changes: Any
) -> Waiting:
    data = changes.pop("data", ())
    no_queue = changes.pop("no_queue", False)
    request = Request(gpus=gpus, **changes)
    return Waiting(
        id=name,
        owner=name.partition("/")[0],
        priority=priority,
        queued=queued,
        request=request,
        ask=ask_of(request),
        data=data,
        no_queue=no_queue,
    )


def holder(name: str, *slots: tuple[str, tuple[int, ...]], **changes: Any) -> Holder:
    values: dict[str, Any] = {"priority": 0, "attempt": 1, "safe": NOW - 100, **changes}
    asked = {key: values.pop(key) for key in ("cpus", "memory") if key in values}
    return Holder(
        id=name,
        owner=name.partition("/")[0],
        slots=tuple(Slot(node=node, gpus=gpus) for node, gpus in slots),
        ask=ask_of(Request(gpus=len(slots[0][1]), **asked)),
        **values,
    )


def at(
    nodes: list[Node], *sessions: Waiting | Holder, now: float = NOW, **cached: frozenset[str]
) -> Snapshot:
    queue = [s for s in sessions if isinstance(s, Waiting)]
    holders = [s for s in sessions if isinstance(s, Holder)]
    return snapshot(now, nodes, queue, holders, cached, {})


def anything(seed: int) -> tuple[list[Node], list[Waiting], list[Holder]]:
    """Any cluster with any queue, small enough to collide often."""
    chance = random.Random(seed)
    nodes = [
        a_node(
            f"n{i}",
            gpus=chance.choice((0, 1, 2, 4, 8)),
            model=chance.choice(("V100", "P40")),
            cpus=float(chance.choice((4, 16))),
            state=chance.choice((NodeState.READY,) * 5 + (NodeState.DRAINED, NodeState.LOST)),
        )
        for i in range(chance.randrange(1, 7))
    ]
    free = {node.id: [g.index for g in node.capacity.gpus] for node in nodes}
    holders = []
    for number in range(chance.randrange(8)):
        node = chance.choice(nodes).id
        count = min(chance.choice((0, 1, 1, 2, 4)), len(free[node]))
        gpus = tuple(free[node].pop() for _ in range(count))
        holders.append(
            holder(
                f"{chance.choice('abc')}/h/{number}",
                (node, gpus),
                priority=chance.choice((0, 0, 1)),
                leaving=chance.random() < 0.2,
                safe=NOW - chance.randrange(1000),
                waited=chance.choice((0.0, 5000.0)),
                cpus=float(chance.choice((0, 0, 1))),
            )
        )
    queue = [
        waiting(
            f"{chance.choice('abc')}/w/{number}",
            chance.choice((0, 1, 1, 2, 4, 8)),
            priority=chance.choice((0, 0, 0, 1, 2)),
            queued=NOW - chance.choice((1, 10, 100, 8000)) - number,
            nodes=chance.choice((1, 1, 1, 1, 2, 3)),
            cpus=float(chance.choice((0, 0, 2, 8))),
            memory=chance.choice((0, 0, 40)) * GIB,
            gpu_model=chance.choice(("", "", "", "P40", "V100|P40")),
            no_queue=chance.random() < 0.1,
        )
        for number in range(chance.randrange(1, 12))
    ]
    return nodes, queue, holders
