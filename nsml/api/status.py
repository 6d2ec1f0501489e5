"""How the platform is: who leads, what there is, what is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from nsml.api.cluster import Room, rooms
from nsml.api.desk import Desk
from nsml.core.errors import NsmlError
from nsml.core.node import NodeState
from nsml.core.ports import Port
from nsml.core.resources import size
from nsml.core.session import ACTIVE, State

LITTLE_DISK = 2 << 30  # bytes: less, and a checkpoint or an environment may not fit
SILENT = 4  # heartbeats missed before a node is said to be silent; it counts as lost somewhat later
PING_SECONDS = 5.0


def version() -> str:
    return metadata.version("nsml")


async def health(at: Desk) -> list[str]:
    """The ports that are away, by name. Said to everybody, so without a reason."""
    ports: dict[str, Port] = {"store": at.store, "bus": at.bus, "blobs": at.blobs, "streams": at.streams}
    answers = await asyncio.gather(*(_ping(port) for port in ports.values()))
    return [name for name, well in zip(ports, answers, strict=True) if not well]


async def _ping(port: Port) -> bool:
    try:
        async with asyncio.timeout(PING_SECONDS):
            await port.ping()
    except (NsmlError, TimeoutError):
        return False
    return True


async def status(at: Desk, address: str) -> dict[str, Any]:
    """The fields of `status`."""
    found = await rooms(at.store)
    there = [room for room in found if room.node.state is not NodeState.LOST]
    counts = await at.store.tally("session", "state", {"state": tuple(sorted(ACTIVE))})
    lease = await at.store.load("lease/scheduler")
    body = (lease.body or {}) if lease else {}
    facts = await asyncio.to_thread(_facts, at.settings.home)
    leader = None if body.get("released") else str(body.get("holder") or "") or None
    queued = counts.get(State.QUEUED.value, 0)
    return {
        "api": address,
        "pid": facts.get("pid", os.getpid()),
        "version": version(),
        "leader": leader,
        "term": lease.term if lease else 0,
        "nodes": len(there),
        "gpus": sum(len(room.node.capacity.gpus) for room in there),
        "free_gpus": sum(len(room.free) for room in there),
        "queued": queued,
        "running": sum(counts.values()) - queued,
        "roles": list(facts.get("roles", ["api"])),
        "warnings": await _warnings(at, found, leader),
        "cluster": at.settings.cluster,
        "user": at.settings.user,
    }


def _facts(home: Path) -> dict[str, Any]:
    """What the platform wrote down of itself when it started; nothing while it starts."""
    try:
        facts = orjson.loads((home / "platform.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return facts if isinstance(facts, dict) else {}


async def _warnings(at: Desk, found: list[Room], leader: str | None) -> list[str]:
    said = [] if leader else ["No scheduler leads: sessions wait until one starts."]
    said += [f"The {name} does not answer." for name in await health(at)]
    parked = len(await at.bus.parked())
    if parked:
        messages = "1 message was" if parked == 1 else f"{parked} messages were"
        said.append(f"{messages} parked because nobody could handle them; the platform's log says why.")
    for room in found:
        said += _of_node(at, room)
    try:
        free = (await asyncio.to_thread(shutil.disk_usage, at.settings.home)).free
    except OSError as error:
        said.append(f"The home {at.settings.home} cannot be looked at: {error.strerror}.")
    else:
        if free < LITTLE_DISK:
            said.append(f"The disk of {at.settings.home} is nearly full: {size(free)} are left.")
    return said


def _of_node(at: Desk, room: Room) -> list[str]:
    node, report, said = room.node, at.live.report(room.node.id), []
    if node.state is NodeState.LOST:
        said.append(f"The node {node.id} is lost{f': {node.reason}' if node.reason else ''}.")
    elif report and (silent := at.clock.now() - report[0]) > SILENT * at.settings.beat:
        said.append(f"The node {node.id} was last heard of {silent:.0f} s ago.")
    for gpu in node.capacity.gpus:
        if not gpu.healthy:
            said.append(f"GPU {gpu.index} of {node.id} ({gpu.uuid}) is in quarantine.")
    if report and report[1].disk_free is not None and report[1].disk_free < LITTLE_DISK:
        said.append(f"The disk of the node {node.id} is nearly full: {size(report[1].disk_free)} are left.")
    return said
