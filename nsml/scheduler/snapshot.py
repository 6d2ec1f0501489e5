"""Everything a plan is made from, at one moment, as one immutable value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nsml.core.node import Node, NodeState
from nsml.core.resources import Capacity, Request, Slot
from nsml.core.session import Session, State
from nsml.scheduler.feasible import Ask, ask_of
from nsml.scheduler.rank import Mix

ENVIRONMENT_BYTES = 2 << 30  # what building an environment again is taken to cost, as bytes to fetch
MOST_KINDS = 512  # of requests that the mix keeps apart; a large cluster sees a few hundred
PRIOR: Mix = tuple((Ask(gpus=n), 1.0) for n in (1, 2, 4, 8))  # what to expect before anything was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A node: what it has in all, the (index, model) of its free GPUs, thousandths of CPUs and bytes of
    memory not given out, the digests it caches. `closed` says why it takes no work, such as "is drained"."""

    id: str
    capacity: Capacity
    gpus: tuple[tuple[int, str], ...]
    cpus: int
    memory: int
    cached: frozenset[str] = frozenset()
    closed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued session: what each of its `nodes` must give, and the (digest, bytes) it would like there."""

    id: str
    owner: str
    priority: int
    queued: float
    request: Request
    ask: Ask
    data: tuple[tuple[str, int], ...] = ()
    no_queue: bool = False

    @property
    def nodes(self) -> int:
        return self.request.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A session that holds slots. `safe` is when its work was last safe (saved, else started), `waited`
    how long it had waited; `leaving` when it is being stopped."""

    id: str
    owner: str
    priority: int
    attempt: int
    slots: tuple[Slot, ...]
    ask: Ask
    safe: float
    waited: float = 0.0
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Nodes and active sessions at `now`; `past` is what owners used before, in GPUs."""

    now: float
    hosts: tuple[Host, ...]
    waiting: tuple[Waiting, ...] = ()
    holders: tuple[Holder, ...] = ()
    past: Mapping[str, float] = field(default_factory=dict)
    mix: Mix = PRIOR


def snapshot(
    now: float,
    nodes: Iterable[Node],
    waiting: Iterable[Waiting],
    holders: Iterable[Holder],
    cached: Mapping[str, frozenset[str]],
    past: Mapping[str, float],
) -> Snapshot:
    """The snapshot of *nodes* and of who waits and who holds; *cached* is what each node last told that it
    caches."""
    queue = sorted(waiting, key=lambda session: session.id)
    holding = sorted(holders, key=lambda session: session.id)
    taken = _taken(holding)
    ordered = sorted(nodes, key=lambda node: node.id)
    return Snapshot(
        now=now,
        hosts=tuple([_host(n, cached.get(n.id, frozenset()), taken.get(n.id, ())) for n in ordered]),
        waiting=tuple(queue),
        holders=tuple(holding),
        past=past,
        mix=mix_of([*[w.ask for w in queue], *[h.ask for h in holding]]),
    )


def waits(session: Session) -> Waiting:
    """How *session* looks to a plan while it waits."""
    run = session.run
    data = tuple([(ref.tree, ref.bytes) for ref in run.datasets])
    if run.environment:
        data = (*data, (run.environment, ENVIRONMENT_BYTES))
    return Waiting(
        id=session.id,
        owner=session.owner,
        priority=run.priority,
        queued=session.queued,
        request=run.request,
        ask=ask_of(run.request),
        data=data,
        no_queue=session.no_queue,
    )


def holds(session: Session) -> Holder:
    """How *session* looks to a plan while it holds slots."""
    return Holder(
        id=session.id,
        owner=session.owner,
        priority=session.run.priority,
        attempt=session.attempt,
        slots=session.slots,
        ask=ask_of(session.run.request),
        safe=max(session.saved, session.started or session.changed),
        waited=session.waited,
        leaving=session.state is State.STOPPING,
    )


Taken = list[tuple[Ask, tuple[int, ...]]]


def _taken(holders: Iterable[Holder]) -> dict[str, Taken]:
    taken: dict[str, Taken] = {}
    for holder in holders:
        for slot in holder.slots:
            taken.setdefault(slot.node, []).append((holder.ask, slot.gpus))
    return taken


def _host(node: Node, cached: frozenset[str], taken: Iterable[tuple[Ask, tuple[int, ...]]]) -> Host:
    held: set[int] = set()
    cpus, memory = round(node.capacity.cpus * 1000), node.capacity.memory
    for ask, gpus in taken:
        held.update(gpus)
        cpus -= ask.cpus
        memory -= ask.memory
    free = tuple([(g.index, g.model) for g in node.capacity.gpus if g.healthy and g.index not in held])
    closed = "" if node.state is NodeState.READY else f"is {node.state}"
    return Host(
        id=node.id,
        capacity=node.capacity,
        gpus=free,
        cpus=cpus,
        memory=memory,
        cached=cached,
        closed=closed,
    )


def mix_of(asks: Iterable[Ask]) -> Mix:
    """The most frequent *asks* and how many of all they are, together with what may always come."""
    counted: Counter[Ask] = Counter(asks)
    common = counted.most_common(MOST_KINDS)
    weights = dict(PRIOR)
    for ask, count in sorted(common):
        weights[ask] = weights.get(ask, 0.0) + count
    total = sum(weights.values())
    return tuple((ask, weight / total) for ask, weight in weights.items())
