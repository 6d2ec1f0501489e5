"""What a session asks of a node, what a node has left, and whether the one fits into the other."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from nsml.core.resources import Request, has_model, size

WHOLE = 1000  # thousandths of a GPU; sessions get whole ones, traces of other clusters ask for parts


class Ask(NamedTuple):
    """A request as it is compared: CPUs and GPU shares in thousandths, memory in bytes; 0 asks for none."""

    gpus: int = 0
    share: int = WHOLE
    cpus: int = 0
    memory: int = 0
    model: str = ""

    @property
    def gpu_share(self) -> int:
        """Thousandths of GPUs in all."""
        return self.gpus * self.share


class Space(NamedTuple):
    """What is free on a node: each GPU's model and free share (largest first within a model; taken ones are
    left out), CPUs in thousandths, memory in bytes. Nodes with equal spaces are alike to every session."""

    models: tuple[str, ...] = ()
    shares: tuple[int, ...] = ()
    cpus: int = 0
    memory: int = 0


def ask_of(request: Request) -> Ask:
    """What *request* asks of each of its nodes."""
    return Ask(
        gpus=request.gpus,
        cpus=round(request.cpus * 1000),
        memory=request.memory,
        model=request.gpu_model if request.gpus else "",
    )


def space_of(gpus: list[tuple[str, int]], cpus: int, memory: int) -> Space:
    """The space of free (model, share) GPUs, CPUs and memory."""
    gpus.sort(key=_order)
    return Space(tuple([m for m, _ in gpus]), tuple([s for _, s in gpus]), cpus, memory)


def _order(gpu: tuple[str, int]) -> tuple[str, int]:
    return gpu[0], -gpu[1]


def fits(ask: Ask, space: Space) -> bool:
    """Whether a node with *space* left can take *ask*."""
    if (ask.cpus and ask.cpus > space.cpus) or (ask.memory and ask.memory > space.memory):
        return False
    if not ask.gpus:
        return True
    return len(space.shares) >= ask.gpus and len(usable(ask, space)) >= ask.gpus


def usable(ask: Ask, space: Space) -> list[int]:
    """Which of the free GPUs would do, by their places in *space*."""
    share = ask.share
    if not ask.model:
        return [i for i, free in enumerate(space.shares) if free >= share]
    wanted = ask.model
    return [
        i
        for i, (model, free) in enumerate(zip(space.models, space.shares, strict=True))
        if free >= share and is_model(model, wanted)
    ]


def take(ask: Ask, space: Space, places: tuple[int, ...]) -> Space:
    """*space* once *ask* has the GPUs at *places*."""
    if not places:
        return space._replace(cpus=space.cpus - ask.cpus, memory=space.memory - ask.memory)
    gpus = [
        (model, free - ask.share if i in places else free)
        for i, (model, free) in enumerate(zip(space.models, space.shares, strict=True))
    ]
    return space_of([g for g in gpus if g[1] > 0], space.cpus - ask.cpus, space.memory - ask.memory)


def join(one: Space, other: Space) -> Space:
    """Both together."""
    gpus = list(zip(one.models + other.models, one.shares + other.shares, strict=True))
    return space_of(gpus, one.cpus + other.cpus, one.memory + other.memory)


def why_not(ask: Ask, space: Space) -> str | None:
    """Why *space* cannot take *ask*, as a clause such as "it has 2 of 4 GPUs free"; None when it can."""
    if fits(ask, space):
        return None
    found = len(usable(ask, space))
    if ask.gpus > found:
        kind = f" {ask.model}" if ask.model else ""
        return f"{ask.gpus}{kind} {plural('GPU', ask.gpus)} wanted, {found or 'none'} free"
    if ask.cpus > space.cpus:
        return f"{ask.cpus / 1000:g} CPUs wanted, {max(space.cpus, 0) / 1000:g} free"
    return f"{size(ask.memory)} of memory wanted, {size(max(space.memory, 0))} free"


def plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


@lru_cache(4096)
def is_model(model: str, wanted: str) -> bool:
    return has_model(model, wanted)
