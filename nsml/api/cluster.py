"""Nodes and GPUs: what there is, what is free, who holds it, how loaded it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsml.api.live import Live
from nsml.api.words import iso
from nsml.core.node import NODE, Node, NodeState
from nsml.core.ports import Store
from nsml.core.resources import Gpu, Request, has_model, size
from nsml.core.session import HOLDING, SESSION, Session

MOST = 100_000


async def known_nodes(store: Store) -> list[Node]:
    """Every node there is a record of, by name."""
    found = [document.value(NODE) for document in await store.scan("node", limit=MOST)]
    return sorted((node for node in found if node), key=lambda node: node.id)


async def holders(store: Store) -> list[Session]:
    """The sessions that hold resources now."""
    where = {"state": tuple(sorted(state.value for state in HOLDING))}
    found = [document.value(SESSION) for document in await store.scan("session", where, limit=MOST)]
    return [session for session in found if session]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A node and what is left on it; `held` maps a GPU's index to the session that has it."""

    node: Node
    held: Mapping[int, Session]
    sessions: tuple[str, ...]
    cpus: float
    memory: int

    @property
    def free(self) -> list[Gpu]:
        """GPUs that could be given out now."""
        if self.node.state is not NodeState.READY:
            return []
        return [gpu for gpu in self.node.capacity.gpus if gpu.healthy and gpu.index not in self.held]

    def lacks(self, request: Request) -> str | None:
        """Why this node cannot give its share of *request* now; None when it can."""
        if self.node.state is not NodeState.READY:
            return f"{self.node.id} is {self.node.state}"
        fitting = [gpu for gpu in self.free if has_model(gpu.model, request.gpu_model)]
        if request.gpus > len(fitting):
            return f"{request.gpus} GPUs wanted, {self.node.id} has {len(fitting)} free"
        if request.cpus > self.cpus + 1e-9:
            return f"{request.cpus:g} CPUs wanted, {self.node.id} has {max(0.0, self.cpus):g} free"
        if request.memory > self.memory:
            left = size(max(0, self.memory))
            return f"{size(request.memory)} of memory wanted, {self.node.id} has {left} free"
        return None


async def rooms(store: Store) -> list[Room]:
    """Every node with what is left on it."""
    nodes, sessions = await known_nodes(store), await holders(store)
    shares: dict[str, list[tuple[Session, tuple[int, ...]]]] = {node.id: [] for node in nodes}
    for session in sessions:
        for slot in session.slots:
            shares.setdefault(slot.node, []).append((session, slot.gpus))
    return [_room(node, shares[node.id]) for node in nodes]


def _room(node: Node, shares: Sequence[tuple[Session, tuple[int, ...]]]) -> Room:
    return Room(
        node=node,
        held={index: session for session, gpus in shares for index in gpus},
        sessions=tuple(sorted({session.id for session, _ in shares})),
        cpus=node.capacity.cpus - sum(session.run.request.cpus for session, _ in shares),
        memory=node.capacity.memory - sum(session.run.request.memory for session, _ in shares),
    )


async def node_rows(store: Store, live: Live) -> list[dict[str, Any]]:
    """The rows of `node ls`."""
    return [_node_row(room, live) for room in await rooms(store)]


def _node_row(room: Room, live: Live) -> dict[str, Any]:
    node, report = room.node, live.report(room.node.id)
    load = report[1] if report else None
    return {
        "node": node.id,
        "status": node.state.value,
        "gpus": len(node.capacity.gpus),
        "free_gpus": len(room.free),
        "cpus": node.capacity.cpus,
        "memory": node.capacity.memory,
        "sessions": list(room.sessions),
        "last_seen": iso(report[0] if report else node.changed),
        "reason": node.reason or None,
        "version": node.version,
        "free_cpus": max(0.0, room.cpus),
        "free_memory": max(0, room.memory),
        "cpu_percent": load.cpu_percent if load else None,
        "memory_used": load.memory_used if load else None,
        "disk_free": load.disk_free if load else None,
    }


async def gpu_rows(store: Store, live: Live) -> list[dict[str, Any]]:
    """The rows of `gpustat`; null where the driver does not tell, or the node is silent."""
    return [row for room in await rooms(store) for row in _gpu_rows(room, live)]


def _gpu_rows(room: Room, live: Live) -> list[dict[str, Any]]:
    report = live.report(room.node.id)
    loads = {load.index: load for load in report[1].loads} if report else {}
    rows = []
    for gpu in room.node.capacity.gpus:
        load, session = loads.get(gpu.index), room.held.get(gpu.index)
        rows.append(
            {
                "node": room.node.id,
                "index": gpu.index,
                "uuid": gpu.uuid,
                "name": gpu.model,
                "utilization": load.utilization if load else None,
                "memory_used": load.memory_used if load else None,
                "memory_total": gpu.memory or None,
                "temperature": load.temperature if load else None,
                "power": load.power if load else None,
                "session": session.id if session else None,
                "user": session.owner if session else None,
                "healthy": gpu.healthy,
            }
        )
    return rows
