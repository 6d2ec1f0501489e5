"""The API listening on a port of its own, over embedded adapters, with a stand-in for the scheduler beside it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from fakes import until

from nsml.api.app import Api
from nsml.api.desk import Doors
from nsml.bus import topology
from nsml.bus.consumer import consume
from nsml.bus.memory import MemoryBus
from nsml.bus.relay import Relay
from nsml.clock import SystemClock
from nsml.core import catalogue as c
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.checkpoint import name as checkpoint_name
from nsml.core.dataset import DATASET
from nsml.core.ids import new_id
from nsml.core.messages import Envelope, Message
from nsml.core.node import NODE
from nsml.core.plain import plain
from nsml.core.resources import Capacity, Gpu, Slot
from nsml.core.session import SESSION, Session
from nsml.core.subject import Document, Subject
from nsml.core.tree import File, Tree
from nsml.settings import Settings
from nsml.store.blobs import ObjectBlobs
from nsml.store.sqlite import SqliteStore
from nsml.store.streams_file import FileStreams
from nsml.store.unit import apply

TOKEN = "nsml_secret"
PAIR, STAMP = struct.Struct("<QQ"), struct.Struct("<Qd")


class Clerk:
    """Applies what arrives to the documents, as the scheduler does; it never places anything by itself."""

    def __init__(self, store: SqliteStore, bus: MemoryBus) -> None:
        self.store, self.bus, self.clock = store, bus, SystemClock()
        self.relay = Relay(bus, store, self.clock, lambda: 1)
        self.asked: list[c.AskSession] = []
        self.works = asyncio.Event()
        self.works.set()

    async def run(self) -> None:
        handlers = {
            **{kind: self._session for kind in (c.RunSession, c.StopSession, c.RemoveSession)},
            **{kind: self._session for kind in (c.ResumeSession, c.NoteSession, c.AttemptStarted)},
            **{kind: self._session for kind in (c.AttemptExited, c.AttemptProgressed, c.CheckpointKept)},
            c.AskSession: self._ask,
            c.PushDataset: self._dataset,
            c.RemoveDataset: self._dataset,
            **{kind: self._checkpoint for kind in (c.CheckpointSaved, c.DropCheckpoint)},
            **{kind: self._node for kind in (c.DrainNode, c.ResumeNode, c.NodeReported)},
        }
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relay.run())
            group.create_task(consume(self.bus, topology.scheduler(), handlers, clock=self.clock))

    async def apply(self, subject: Subject[Any], name: str, envelope: Envelope) -> None:
        await self.works.wait()
        document = await apply(self.store, subject, name, envelope)
        if document:
            self.relay.owe(document)

    async def _session(self, envelope: Envelope) -> None:
        await self.apply(SESSION, envelope.body.session, envelope)  # type: ignore[attr-defined]

    async def _dataset(self, envelope: Envelope) -> None:
        body: Any = envelope.body
        await self.apply(DATASET, f"{body.owner}/{body.dataset}", envelope)

    async def _checkpoint(self, envelope: Envelope) -> None:
        body: Any = envelope.body
        await self.apply(CHECKPOINT, checkpoint_name(body.session, body.checkpoint), envelope)

    async def _node(self, envelope: Envelope) -> None:
        await self.apply(NODE, envelope.body.node, envelope)  # type: ignore[attr-defined]

    async def _ask(self, envelope: Envelope) -> None:
        self.asked.append(envelope.body)  # type: ignore[arg-type]


@dataclass
class Office:
    """A test's hands on the API, and on what lies behind it."""

    api: Api
    settings: Settings
    store: SqliteStore
    bus: MemoryBus
    blobs: ObjectBlobs
    streams: FileStreams
    clerk: Clerk
    base: str = ""
    http: aiohttp.ClientSession = field(init=False)

    # -- HTTP ----------------------------------------------------------------------------------------
    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        async with self.http.request(method, self.base + path, **options) as response:
            body = await response.read()
            return response.status, orjson.loads(body) if body else None

    async def get(self, path: str) -> Any:
        status, data = await self.call("GET", path)
        assert status == 200, (status, data)
        return data

    async def command(self, name: str, body: object, id: str | None = None) -> tuple[int, Any]:
        outer = {"body": body} if id is None else {"body": body, "id": id}
        return await self.call("POST", f"/v1/commands/{name}", json=outer)

    async def refused(self, name: str, body: object) -> tuple[int, str]:
        """Status and message of a command that must be refused."""
        status, data = await self.command(name, body)
        assert status >= 400, data
        return status, data["error"]["message"]

    # -- what a user does ----------------------------------------------------------------------------
    async def tree(self, files: Mapping[str, bytes]) -> str:
        made = [
            File(path=path, bytes=len(data), sha256=await self.blobs.put_bytes(data))
            for path, data in files.items()
        ]
        return await self.blobs.put_bytes(orjson.dumps(plain(Tree(files=tuple(made)))))

    async def wish(self, **changes: Any) -> dict[str, Any]:
        return {"code": await self.tree({"main.py": b"print(1)\n"}), "entry": "main.py", **changes}

    async def run(self, **changes: Any) -> str:
        status, data = await self.command("session.run", await self.wish(**changes))
        assert status == 202, data
        return str(data["session"])

    async def push(self, name: str, **changes: Any) -> dict[str, Any]:
        tree = await self.tree({"train/a.txt": b"one", "train/b/c.txt": b"three"})
        status, data = await self.command("dataset.push", {"dataset": name, "tree": tree, **changes})
        assert status == 202, data
        return dict(data)

    # -- what the platform does ----------------------------------------------------------------------
    async def tell(self, message: Message, actor: str = "node:n1") -> None:
        await self.bus.publish(Envelope(id=new_id(), body=message, at=self.clerk.clock.now(), actor=actor))

    async def node(self, name: str = "n1", gpus: int = 4, **changes: Any) -> None:
        have = tuple(
            Gpu(index=i, uuid=f"{name}-{i}", model="Tesla P40", memory=24 << 30) for i in range(gpus)
        )
        capacity = Capacity(gpus=have, cpus=8.0, memory=64 << 30)
        await self.tell(c.NodeReported(node=name, boot="b", capacity=capacity, **changes), f"node:{name}")

    async def place(self, session: str, *slots: Slot) -> Session:
        """Place the session and start it."""
        message = c.PlaceSession(session=session, slots=slots or (Slot(node="n1"),))
        await self.clerk.apply(SESSION, session, Envelope(body=message, at=self.clerk.clock.now()))
        placed = await self.session(session)
        for rank, slot in enumerate(placed.slots):
            started = c.AttemptStarted(session=session, attempt=placed.attempt, rank=rank, node=slot.node)
            await self.tell(started, f"node:{slot.node}")
        return await self.session(session)

    async def exit(self, session: str, code: int = 0, **changes: Any) -> Session:
        now = await self.session(session)
        exited = {
            "session": session,
            "attempt": now.attempt,
            "rank": 0,
            "node": "n1",
            "code": code,
            **changes,
        }
        await self.tell(c.AttemptExited(**exited))
        return await self.session(session)

    async def session(self, name: str) -> Session:
        document = await self.store.load(SESSION.key(name))
        found = document.value(SESSION) if document else None
        assert found is not None
        return found

    async def save(self, session: str, checkpoint: str, at: float, **changes: Any) -> None:
        tree = await self.tree({"w": checkpoint.encode()})
        saved = {
            "session": session,
            "attempt": 1,
            "checkpoint": checkpoint,
            "tree": tree,
            "bytes": 1,
            "at": at,
        }
        await self.tell(c.CheckpointSaved(**{**saved, **changes}))
        await until(lambda: self._is_latest(session, checkpoint))

    async def _is_latest(self, session: str, checkpoint: str) -> bool:
        return (await self.session(session)).checkpoint == checkpoint

    async def write_log(self, session: str, attempt: int, *pieces: tuple[str, bytes]) -> int:
        """Append ("out" or "err", bytes) pieces as the recorder does, and ring; the log's size after it."""
        stream = f"log/{session}/{attempt}"
        at = await self.streams.size(stream)
        for kind, data in pieces:
            if kind == "err":
                ranges = f"log.err/{session}/{attempt}"
                await self.streams.append(
                    ranges, await self.streams.size(ranges), PAIR.pack(at, at + len(data))
                )
            await self.streams.append(stream, at, data)
            await self.tell(c.LogGrew(session=session, stream=stream, offset=at, data=data))
            at += len(data)
        return at

    async def stamp(self, session: str, attempt: int, offset: int, at: float) -> None:
        stream = f"log.at/{session}/{attempt}"
        await self.streams.append(stream, await self.streams.size(stream), STAMP.pack(offset, at))

    async def queue(self, *waiting: dict[str, Any]) -> None:
        """What the scheduler says of who waits."""
        old = await self.store.load("queue/main")
        body = {"at": 1.0, "waiting": list(waiting)}
        version = old.version + 1 if old else 1
        await self.store.commit(Document(key="queue/main", body=body, version=version))


@pytest.fixture
def doors() -> Doors:
    """The limits; a test module may say others."""
    return Doors()


@pytest.fixture
async def office(tmp_path: Path, doors: Doors) -> AsyncIterator[Office]:
    settings = Settings(home=tmp_path, user="alice", node="n1")
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(SqliteStore(tmp_path / "nsml.db"))
        bus = await stack.enter_async_context(MemoryBus())
        blobs = await stack.enter_async_context(ObjectBlobs(f"file:{tmp_path / 'blobs'}"))
        streams = await stack.enter_async_context(FileStreams(tmp_path / "streams"))
        clerk = Clerk(store, bus)
        api = Api(settings, store, bus, blobs, streams, SystemClock(), TOKEN)
        api.doors = doors
        made = Office(api, settings, store, bus, blobs, streams, clerk)
        tasks = [asyncio.create_task(clerk.run()), asyncio.create_task(api.run())]
        await asyncio.wait_for(api.ready.wait(), 5)
        made.base = api.address()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        made.http = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        yield made
        await made.http.close()
        for task in reversed(tasks):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
