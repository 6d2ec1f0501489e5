"""Why a session waits, in one sentence, and the smallest change that would start it now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nsml.core.resources import Request, never, size
from nsml.scheduler.feasible import WHOLE, Ask, Space, ask_of, fits, join, plural, usable, why_not
from nsml.scheduler.placement import Kept, Plan
from nsml.scheduler.preempt import freed
from nsml.scheduler.snapshot import Holder, Host, Snapshot, Waiting

MOST_NAMED = 4  # sessions named in "when … end"; of more, only how many
MOST_TRIED = 100  # sessions looked at in detail for one kind of request …
MOST_KINDS = 40  # … and kinds of requests for which they are, so that telling takes well below 0.1 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What a waiting session is told."""

    session: str
    reason: str
    nearest: str | None


def explain(snapshot: Snapshot, plan: Plan, most: int) -> tuple[Reason, ...]:
    """The reasons of the first *most* waiting sessions, in the order of service. Sessions that ask for the
    same get the same answer, worked out once."""
    kept: dict[str, list[Kept]] = {}
    for keep in plan.kept:
        kept.setdefault(keep.session, []).append(keep)
    room = Room(snapshot, plan)
    known: dict[tuple[Ask, int], tuple[str, str | None]] = {}
    reasons: list[Reason] = []
    for session in plan.waiting[:most]:
        if session.id in kept:
            own = Room(snapshot, plan, kept[session.id])
            reason, nearest = _kept_for(own, session, kept[session.id]), nearest_change(own, session)
        else:
            kind = (session.ask, session.nodes)
            if kind not in known:
                thorough = len(known) < MOST_KINDS
                known[kind] = why(room, session), nearest_change(room, session, thorough)
            reason, nearest = known[kind]
        reasons.append(Reason(session=session.id, reason=reason, nearest=nearest))
    return tuple(reasons)


class Room:
    """What is left after a plan as one session sees it: what is kept for itself counts as free."""

    def __init__(self, snapshot: Snapshot, plan: Plan, own: list[Kept] | None = None) -> None:
        self.hosts = {host.id: host for host in snapshot.hosts}
        self.closed = [host for host in snapshot.hosts if host.closed]
        self.plan = plan
        self._alike: dict[Alike, list[Host]] = {}
        for host in snapshot.hosts:
            self._alike.setdefault(_alike(host), []).append(host)
        self.holders = sorted(snapshot.holders, key=lambda h: (not h.leaving, h.safe, h.id))[:MOST_TRIED]
        self._own = {keep.node: join(plan.floor.space(keep.node), keep.space) for keep in own or ()}
        self._others = plan.floor.spaces()
        for node in self._own:
            self._others[plan.floor.space(node)] -= 1

    def able(self, request: Request) -> list[Host]:
        """The nodes that could take *request* if they were empty and took work."""
        kinds = [hosts for hosts in self._alike.values() if never(request, hosts[0].capacity) is None]
        return [host for hosts in kinds for host in hosts]

    def space(self, node: str) -> Space:
        return self._own.get(node) or self.plan.floor.space(node)

    def spaces(self) -> list[Space]:
        """Every kind of space that some node has."""
        return [*self._own.values(), *(space for space, count in self._others.items() if count)]

    def count(self, ask: Ask) -> int:
        """How many nodes can take *ask*."""
        others = sum(count for space, count in self._others.items() if count and fits(ask, space))
        return others + sum(fits(ask, space) for space in self._own.values())

    def starts(self, request: Request) -> bool:
        return self.count(ask_of(request)) >= request.nodes

    def opens(self, ask: Ask, node: str, gone: tuple[Holder, ...]) -> bool:
        """Whether *node* can take *ask* once *gone* are gone, and cannot now."""
        if node not in self.plan.floor:
            return False
        space = self.space(node)
        return not fits(ask, space) and fits(ask, freed(space, self.hosts[node], gone))


Alike = tuple[tuple[str, ...], float, int]


def _alike(host: Host) -> Alike:
    """What of a node counts for `never`: nodes of a cluster come in few kinds."""
    models = tuple([gpu.model for gpu in host.capacity.gpus if gpu.healthy])
    return models, host.capacity.cpus, host.capacity.memory


# -- reasons -------------------------------------------------------------------------------------------
def _kept_for(room: Room, session: Waiting, kept: list[Kept]) -> str:
    nodes = sorted({keep.node for keep in kept})
    giving = {p.session for p in room.plan.preempts if p.wanted_by == session.id}
    leaving = {h.id for h in room.holders if h.leaving and any(slot.node in nodes for slot in h.slots)}
    going = sorted(giving | leaving)
    if going:
        return f"{some(going)} {'makes' if len(going) == 1 else 'make'} room for it on {some(nodes)}"
    return f"{why(room, session)}; it is next: what gets free on {some(nodes)} is kept for it"


def why(room: Room, session: Waiting) -> str:
    """Why *session* cannot start now."""
    if not room.hosts:
        return "no node has joined yet"
    able = room.able(session.request)
    if len(able) < session.nodes:
        return _never(room, session, len(able))
    if sum(not host.closed for host in able) < session.nodes:
        return _closed(session, [host for host in able if host.closed])
    count = room.count(session.ask)
    behind = _behind(room, session)
    if behind:
        return behind
    if session.nodes > 1:
        return f"{session.nodes} nodes wanted, {count} {'has' if count == 1 else 'have'} room now"
    return _lacks(room, session.ask)


def _never(room: Room, session: Waiting, able: int) -> str:
    if able:
        return f"{session.nodes} nodes wanted, only {able} {'is' if able == 1 else 'are'} large enough"
    reasons = sorted((never(session.request, host.capacity) or "", host.id) for host in room.hosts.values())
    if len(reasons) == 1:
        return f"the only node, {reasons[0][1]}, is too small: {reasons[0][0]}"
    return f"no node is large enough; {reasons[0][1]}: {reasons[0][0]}"


def _closed(session: Waiting, closed: list[Host]) -> str:
    told = f"the node {closed[0].id} {closed[0].closed}"
    if len(closed) > 1:
        told = f"{len(closed)} nodes that could run it take no work ({closed[0].id} {closed[0].closed})"
    return f"{session.nodes} nodes wanted, and {told}" if session.nodes > 1 else told


def _behind(room: Room, session: Waiting) -> str:
    """That a node which would do is kept for another session; empty if that is not the cause."""
    for keep in room.plan.kept:
        if keep.session != session.id and fits(session.ask, join(room.space(keep.node), keep.space)):
            return f"what is free on {keep.node} is kept for {keep.session}, which is before it"
    return ""


def _lacks(room: Room, ask: Ask) -> str:
    spaces = room.spaces()
    most = max((len(usable(ask, space)) for space in spaces), default=0)
    if ask.gpus > most:
        wanted = f"{ask.gpus}{f' {ask.model}' if ask.model else ''} {plural('GPU', ask.gpus)} wanted"
        return f"{wanted}, largest free node has {most}" if most else f"{wanted}, none is free"
    enough = [space for space in spaces if len(usable(ask, space)) >= ask.gpus]
    near = min(enough, key=lambda s: (max(0, ask.cpus - s.cpus), max(0, ask.memory - s.memory)))
    return why_not(ask, near) or "it is placed with the next pass"


# -- the smallest change -------------------------------------------------------------------------------
def nearest_change(room: Room, session: Waiting, thorough: bool = True) -> str | None:
    """What would start *session* now, the smallest change first; None when nothing is known that would. Only
    a *thorough* answer looks for the sessions whose end would help."""
    ways = (_asking_less, _one_ending, _reopening, _several_ending, _others_served)
    for changes in ways if thorough else (_asking_less, _reopening, _others_served):
        for change in changes(room, session):
            return change
    return None


def _asking_less(room: Room, session: Waiting) -> Iterator[str]:
    request = session.request
    for gpus in range(request.gpus - 1, 0, -1):
        if room.starts(replace(request, gpus=gpus)):
            yield f"with {gpus} {plural('GPU', gpus)} instead of {request.gpus}"
    if request.memory and room.starts(replace(request, memory=0)):
        yield f"without --memory {size(request.memory).replace(' ', '').removesuffix('B')}"
    if request.cpus and room.starts(replace(request, cpus=0)):
        yield f"without -c {request.cpus:g}"
    if request.gpu_model and room.starts(replace(request, gpu_model="")):
        yield f"with any GPU instead of {request.gpu_model}"
    for nodes in range(request.nodes - 1, 0, -1):
        if room.starts(replace(request, nodes=nodes)):
            yield f"on {nodes} {plural('node', nodes)} instead of {request.nodes}"


def _one_ending(room: Room, session: Waiting) -> Iterator[str]:
    ready = room.count(session.ask)
    for holder in room.holders:
        opened = sum(room.opens(session.ask, node, (holder,)) for node in {s.node for s in holder.slots})
        if opened and ready + opened >= session.nodes:
            yield f"when {holder.id} ends"


def _reopening(room: Room, session: Waiting) -> Iterator[str]:
    for host in room.closed:
        whole = Space(tuple(m for _, m in host.gpus), (WHOLE,) * len(host.gpus), host.cpus, host.memory)
        if room.count(session.ask) + fits(session.ask, whole) >= session.nodes:
            yield f"when the node {host.id} {'is back' if host.closed == 'is lost' else 'takes work again'}"


def _several_ending(room: Room, session: Waiting) -> Iterator[str]:
    there: dict[str, list[Holder]] = {}
    for holder in room.holders:
        for slot in holder.slots:
            there.setdefault(slot.node, []).append(holder)
    groups = [_enough(room, session.ask, node, holders) for node, holders in there.items()]
    found = sorted((len(group), sorted(h.id for h in group)) for group in groups if group)
    missing = session.nodes - room.count(session.ask)
    if found and 0 < missing <= len(found):
        names = sorted({name for _, group in found[:missing] for name in group})
        yield f"when {some(names)} {'ends' if len(names) == 1 else 'end'}"


def _enough(room: Room, ask: Ask, node: str, holders: list[Holder]) -> tuple[Holder, ...]:
    """The fewest of *holders*, the oldest first, whose end lets *node* take *ask*; empty if none do."""
    for count in range(1, len(holders) + 1):
        if room.opens(ask, node, tuple(holders[:count])):
            return tuple(holders[:count])
    return ()


def _others_served(room: Room, session: Waiting) -> Iterator[str]:
    others = sorted({keep.session for keep in room.plan.kept if keep.session != session.id})
    if others:
        yield f"when {some(others)} {'ends' if len(others) == 1 else 'end'}"


def some(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`; of many, the first few and how many more."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[: MOST_NAMED - 1])} and {len(names) - MOST_NAMED + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
