"""What a session asks for and what a node has: arithmetic of GPUs, CPUs and memory."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What each node of a session must give: GPUs, CPU cores, memory and shm in bytes; `nodes` of them.

    A zero reserves nothing: the session shares what is there and is held to the node's default limits.
    """

    gpus: int = 0
    cpus: float = 0.0
    memory: int = 0
    shm: int = 0
    nodes: int = 1
    gpu_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A session's share of one node; `gpus` are the indices it holds there."""

    node: str
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of a node; memory in bytes; an unhealthy one is counted, but never given out."""

    index: int
    uuid: str
    model: str = ""
    memory: int = 0
    healthy: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a node has to give out in all; memory in bytes."""

    gpus: tuple[Gpu, ...] = ()
    cpus: float = 0.0
    memory: int = 0


def never(request: Request, capacity: Capacity) -> str | None:
    """Why a node of *capacity*, were it empty, could not give its share of *request*; None when it could."""
    fitting = [g for g in capacity.gpus if g.healthy and has_model(g.model, request.gpu_model)]
    if request.gpus and request.gpu_model and not fitting:
        return f"no GPU of model {request.gpu_model}"
    if request.gpus > len(fitting):
        kind = f" {request.gpu_model}" if request.gpu_model else ""
        return f"{request.gpus}{kind} GPUs wanted, it has {len(fitting)}"
    if request.cpus > capacity.cpus:
        return f"{request.cpus:g} CPUs wanted, it has {capacity.cpus:g}"
    if request.memory > capacity.memory:
        return f"{size(request.memory)} of memory wanted, it has {size(capacity.memory)}"
    return None


def has_model(model: str, wanted: str) -> bool:
    """Whether a GPU of *model* ("Tesla P40") satisfies *wanted* ("p40"); one of several, parted by `|`."""
    return not wanted or any(w.strip().lower() in model.lower() for w in wanted.split("|"))


def size(count: int) -> str:
    """Bytes for people, at most two decimals: `3.5 MB`, `366.74 MB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB", "PB"):
        if value < 1024 or unit == "PB":
            break
        value /= 1024
    return f"{round(value, 2):g} {unit}"
