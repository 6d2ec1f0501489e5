"""What every handler of the API is given: the ports, the live view, the limits of the doors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from aiohttp import web

from nsml.api.curves import Curves
from nsml.api.live import Live
from nsml.core.ports import Blobs, Bus, Clock, Store, Streams
from nsml.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """How much may come in, and how long people wait."""

    body: int = 8 << 20  # a JSON body: a run with thousands of arguments fits, a flood does not
    upload: int = 256 << 30  # bytes of one upload request; a dataset larger than that comes in several
    tree: int = 512 << 20  # bytes of a list of files: two million files with long names
    outcome: float = 2.0  # until a command's outcome is known; then "accepted" is said
    publish: float = 10.0  # until the bus has the command; then the server counts as away
    answer: float = 30.0  # until a session answers a question
    idle: float = 20.0  # of a connection without a whole request head; half requests end here
    chunk: float = 30.0  # between two pieces of an upload, and for a reader to take a piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The API's collaborators; `flights` holds one lock for each run request being handled."""

    settings: Settings
    store: Store
    bus: Bus
    blobs: Blobs
    streams: Streams
    clock: Clock
    live: Live
    curves: Curves
    address: Callable[[], str]
    doors: Doors = Doors()
    flights: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)


DESK = web.AppKey("desk", Desk)


def desk(request: web.Request) -> Desk:
    return request.app[DESK]
