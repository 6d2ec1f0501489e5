"""The only way in for changes: each command is checked, stamped and published, and its outcome awaited."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from nsml.api import names, requests
from nsml.api.auth import Actor, actor
from nsml.api.desk import Desk, desk
from nsml.api.failures import reply
from nsml.api.fields import Fields, read_json
from nsml.api.outcome import ACCEPTED, Order, carry_out, is_done, question
from nsml.api.runs import MOST_MEMO, read_wish
from nsml.api.trees import stored_tree
from nsml.core import catalogue as c
from nsml.core import checkpoint as checkpoints
from nsml.core import ids
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.dataset import DATASET
from nsml.core.errors import BadInput, NotFound
from nsml.core.messages import Message
from nsml.core.node import NODE
from nsml.core.session import SESSION

ID = re.compile(r"[0-9a-f]{32}")
TAG = re.compile(r"#\S{1,49}")
MOST_DATA = 4 << 20  # characters of a question to a session


Check = Callable[[Desk, Actor, Fields, str], Awaitable[Order]]


async def post(request: web.Request) -> web.Response:
    """POST /v1/commands/{name}."""
    at, who = desk(request), actor(request)
    name = request.match_info["name"]
    if name not in NAMES:
        raise NotFound(
            f"There is no command {ids.printable(name)[:80]!r}.",
            hint=f"There are: {', '.join(sorted(NAMES))}.",
        )
    outer = await read_json(request)
    id = outer.text("id", "") or ids.new_id()
    if not ID.fullmatch(id):
        raise BadInput("'id' must be 32 hexadecimal digits.", hint="Leave it out to have one made.")
    fields = outer.fields("body")
    outer.done()
    if name == "session.run":
        return reply(await run(at, who, fields, outer.raw("body", {}), id), 202)
    if name == "session.ask":
        return reply(await ask(at, who, fields, id), 202)
    order = await CHECKS[name](at, who, fields, id)
    fields.done()
    return reply(await carry_out(at, who, order, id), 202)


# -- session.run ---------------------------------------------------------------------------------------
async def run(at: Desk, who: Actor, fields: Fields, raw: object, id: str) -> dict[str, Any]:
    """Queue a session. However often a request comes, at once or later, there is one session for its id."""
    lock = at.flights.setdefault(id, asyncio.Lock())
    async with lock:
        content = requests.digest(raw)
        known = await requests.known(at.store, who, id, content)
        if known and (answer := await _session_answer(at, known)):
            return answer
        wish = await read_wish(at, who, fields)
        session = known or await requests.name(at.store, at.clock, who, wish.dataset, id, content)
        return await carry_out(at, who, _session_order(at, wish.message(session), session), id)


async def _session_answer(at: Desk, session: str) -> dict[str, Any] | None:
    document = await at.store.load(SESSION.key(session))
    found = document.value(SESSION) if document else None
    return {"session": session, "status": found.state.value} if found else None


# -- questions to a session --------------------------------------------------------------------------
async def ask(at: Desk, who: Actor, fields: Fields, id: str) -> dict[str, Any]:
    """Put a question to a running session and wait for its answer."""
    session = await names.own_session(at.store, who, fields.line("session"))
    verb = fields.line("verb", most=64)
    data = fields.text("data", "", MOST_DATA)
    fields.done()
    answer = await question(at, who, session.id, session.state, verb, data, id)
    return {"ok": answer.ok, "data": answer.data}


# -- the other commands ------------------------------------------------------------------------------
def _session_order(at: Desk, message: Message, session: str) -> Order:
    async def told() -> dict[str, Any]:
        return await _session_answer(at, session) or {"session": session, **ACCEPTED}

    return Order(message=message, key=SESSION.key(session), answer=told)


async def _stop(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    session = await names.own_session(at.store, who, fields.line("session"))
    message = c.StopSession(
        session=session.id, reason=fields.text("reason", "", 1000), now=fields.flag("now")
    )
    return _session_order(at, message, session.id)


async def _remove(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    session = names.session_name(fields.line("session"))
    if not await is_done(
        at, SESSION.key(session), id
    ):  # else a repeat: there is nothing to be found any more
        await names.own_session(at.store, who, session)
    message = c.RemoveSession(session=session, force=fields.flag("force"))
    return _session_order(at, message, session)


async def _resume(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    """From the checkpoint named, from the latest, or, when nothing was saved, from the start."""
    session = await names.own_session(at.store, who, fields.line("session"))
    wanted = fields.line("iteration") if "iteration" in fields else None
    fields.raw("iteration", None)
    if wanted is None:
        iteration = await _latest(at, session.id)
    else:
        iteration = (await _checkpoint(at, session.id, wanted)).checkpoint
    return _session_order(at, c.ResumeSession(session=session.id, iteration=iteration), session.id)


async def _latest(at: Desk, session: str) -> str | None:
    """What was saved last and is still there; None for nothing."""
    where = {"session": session, "dropped": False}
    found = [d.value(CHECKPOINT) for d in await at.store.scan("checkpoint", where, limit=100_000)]
    saved = max((one for one in found if one), key=lambda one: one.saved, default=None)
    return saved.checkpoint if saved else None


async def _note(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    session = await names.own_session(at.store, who, fields.line("session"))
    message = c.NoteSession(session=session.id, memo=fields.text("memo", most=MOST_MEMO))
    return _session_order(at, message, session.id)


async def _drop(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    session = await names.own_session(at.store, who, fields.line("session"))
    checkpoint = fields.line("checkpoint")
    key = CHECKPOINT.key(checkpoints.name(session.id, checkpoint))
    if not await is_done(at, key, id):
        await _checkpoint(at, session.id, checkpoint)

    async def told() -> dict[str, Any]:
        return {"session": session.id, "checkpoint": checkpoint, "status": "dropped"}

    message = c.DropCheckpoint(session=session.id, checkpoint=checkpoint)
    return Order(message=message, key=key, answer=told)


async def _checkpoint(at: Desk, session: str, name: str) -> checkpoints.Checkpoint:
    """A checkpoint that is there. Raises `NotFound`."""
    document = await at.store.load(CHECKPOINT.key(checkpoints.name(session, name)))
    found = document.value(CHECKPOINT) if document else None
    if found is None or found.dropped:
        raise NotFound(f"{session} has no checkpoint {name}.", hint=f"See 'nsml model ls {session}'.")
    return found


async def _push(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    name = ids.name(fields.text("dataset"), "dataset")
    digest = ids.digest(fields.line("tree"))
    message = c.PushDataset(
        owner=who.name,
        dataset=name,
        tree=digest,
        files=0,
        bytes=0,
        force=fields.flag("force"),
        description=fields.text("description", most=2000) if "description" in fields else None,
        tags=_tags(fields) if "tags" in fields else None,
        private=fields.flag("private") if "private" in fields else None,
    )
    for optional in ("description", "tags", "private"):
        fields.raw(optional, None)
    fields.done()
    tree = await stored_tree(at.blobs, digest, at.doors.tree)
    key = DATASET.key(f"{who.name}/{name}")

    async def told() -> dict[str, Any]:
        document = await at.store.load(key)
        dataset = document.value(DATASET) if document else None
        pushed = [v.number for v in dataset.versions if v.tree == digest] if dataset else []
        return {"dataset": name, "version": max(pushed, default=dataset.last if dataset else 1)}

    counted = replace(message, files=len(tree.files), bytes=tree.bytes)
    return Order(message=counted, key=key, answer=told)


def _tags(fields: Fields) -> tuple[str, ...]:
    tags = fields.texts("tags", most=7, each=50)
    for tag in tags:
        if not TAG.fullmatch(tag) or not tag.isprintable():
            raise BadInput(
                f"{ids.printable(tag)!r} is not a tag: they begin with '#' and have no spaces.",
                hint="Write it like --tag '#digits'.",
            )
    return tags


async def _remove_dataset(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    owner, _, name = fields.line("dataset").rpartition("/")
    full = f"{owner or who.name}/{ids.name(name, 'dataset')}"
    if not await is_done(at, DATASET.key(full), id):
        dataset = await names.find_dataset(at.store, who, name, owner)
        who.must_own(dataset.owner, f"The dataset {dataset.id}")

    async def told() -> dict[str, Any]:
        return {"dataset": name, "status": "removed"}

    message = c.RemoveDataset(owner=who.name, dataset=name)
    return Order(message=message, key=DATASET.key(full), answer=told)


async def _node_order(at: Desk, message: Message, node: str) -> Order:
    async def told() -> dict[str, Any]:
        document = await at.store.load(NODE.key(node))
        found = document.value(NODE) if document else None
        return {"node": node, "status": found.state.value if found else "unknown"}

    if await at.store.load(NODE.key(node)) is None:
        raise NotFound(f"There is no node {node}.", hint="See 'nsml node ls'.")
    return Order(message=message, key=NODE.key(node), answer=told)


async def _drain(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    node = ids.name(fields.text("node"), "node")
    return await _node_order(at, c.DrainNode(node=node, reason=fields.text("reason", "", 1000)), node)


async def _resume_node(at: Desk, who: Actor, fields: Fields, id: str) -> Order:
    node = ids.name(fields.text("node"), "node")
    return await _node_order(at, c.ResumeNode(node=node), node)


CHECKS: Mapping[str, Check] = {
    "session.stop": _stop,
    "session.remove": _remove,
    "session.resume": _resume,
    "session.note": _note,
    "checkpoint.drop": _drop,
    "dataset.push": _push,
    "dataset.remove": _remove_dataset,
    "node.drain": _drain,
    "node.resume": _resume_node,
}
NAMES = frozenset({"session.run", "session.ask", *CHECKS})
