"""What a run would do: which node would take it now, or why it would wait. Nothing is created."""

from __future__ import annotations

from typing import Any

from nsml.api.auth import Actor
from nsml.api.cluster import Room, rooms
from nsml.api.desk import Desk
from nsml.api.fields import Fields
from nsml.api.runs import read_wish
from nsml.core.resources import Request
from nsml.core.session import State


async def plan(at: Desk, who: Actor, fields: Fields) -> dict[str, Any]:
    """The answer to `run --dry-run`. Raises what the run itself would be refused with."""
    wish = await read_wish(at, who, fields)
    request = wish.run.request
    found = await rooms(at.store)
    fitting = sorted((room for room in found if room.lacks(request) is None), key=lambda room: len(room.free))
    fits = len(fitting) >= request.nodes
    waiting = (await at.store.tally("session", "state", {"state": State.QUEUED.value})).get("queued", 0)
    return {
        "fits": fits,
        "node": ",".join(room.node.id for room in fitting[: request.nodes]) if fits else None,
        "reason": None if fits else _reason(request, found, len(fitting)),
        "session_would_be": await _next(at, who, wish.dataset),
        "waiting": waiting,
        "entry": wish.run.entry,
        "gpus": request.gpus * request.nodes,
        "datasets": [f"{ref.owner}/{ref.name}@{ref.version}" for ref in wish.run.datasets],
    }


def _reason(request: Request, found: list[Room], fitting: int) -> str:
    if not found:
        return "no node has reported yet"
    if fitting:
        return f"{request.nodes} nodes wanted, {fitting} could give their share now"
    said = [reason for reason in (room.lacks(request) for room in found) if reason]
    more = f"; and {len(said) - 3} more nodes" if len(said) > 3 else ""
    return "; ".join(said[:3]) + more


async def _next(at: Desk, who: Actor, dataset: str) -> str:
    """The name it would have, unless somebody is faster; numbers may be left out."""
    where = {"owner": who.name, "dataset": dataset}
    last = await at.store.scan("session", where, order="-created", limit=1)
    number = int(last[0].key.rpartition("/")[2]) if last else 0
    return f"{who.name}/{dataset}/{number + 1}"
