"""Every path of the API and what answers it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from nsml.api import blobs, cluster, commands, logs, names, plans, queries, status, stream
from nsml.api.auth import actor
from nsml.api.desk import Desk, desk
from nsml.api.failures import reply
from nsml.api.fields import asked_flag, asked_line, asked_number, asked_whole, read_json
from nsml.api.outcome import question
from nsml.core import ids
from nsml.core.errors import BadInput, NotFound, Refused
from nsml.core.plain import plain
from nsml.core.session import Session, State

MOST_ROWS = 100_000
SESSION = "/v1/sessions/{owner}/{dataset}/{number}"


def add(app: web.Application) -> None:
    """Add every route to *app*."""
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/v1/status", get_status),
            web.post("/v1/commands/{name}", commands.post),
            web.post("/v1/plan", plan),
            web.get("/v1/resolve", resolve),
            web.get("/v1/sessions", sessions),
            web.get(SESSION, one_session),
            web.get(SESSION + "/why", why),
            web.get(SESSION + "/follow", follow, allow_head=False),
            web.get(SESSION + "/log", log, allow_head=False),
            web.get(SESSION + "/plot", plot),
            web.get(SESSION + "/checkpoints", checkpoints),
            web.get(SESSION + "/output", output),
            web.get("/v1/datasets", datasets),
            web.get("/v1/datasets/{name}", one_dataset),
            web.get("/v1/nodes", nodes),
            web.get("/v1/gpus", gpus),
            web.post("/v1/blobs", blobs.put_pack),
            web.post("/v1/blobs/missing", blobs.missing),
            web.post("/v1/blobs/fetch", blobs.fetch),
            web.put("/v1/blobs/{digest}", blobs.put_one),
            web.get("/v1/blobs/{digest}", blobs.get_one, allow_head=False),
        ]
    )


# -- the platform ------------------------------------------------------------------------------------
async def healthz(request: web.Request) -> web.Response:
    away = await status.health(desk(request))
    if away:
        return reply({"ok": False, "version": status.version(), "away": away}, 503)
    return reply({"ok": True, "version": status.version()})


async def get_status(request: web.Request) -> web.Response:
    at = desk(request)
    return reply(await status.status(at, at.address()))


async def nodes(request: web.Request) -> web.Response:
    at = desk(request)
    return reply(await cluster.node_rows(at.store, at.live))


async def gpus(request: web.Request) -> web.Response:
    at = desk(request)
    return reply(await cluster.gpu_rows(at.store, at.live))


async def plan(request: web.Request) -> web.Response:
    return reply(await plans.plan(desk(request), actor(request), await read_json(request)))


# -- sessions --------------------------------------------------------------------------------------
async def sessions(request: web.Request) -> web.Response:
    at = desk(request)
    wanted = queries.Wanted(
        all=asked_flag(request, "all"),
        dataset=asked_line(request, "dataset"),
        owner=asked_line(request, "owner"),
        name=asked_line(request, "name"),
        limit=asked_whole(request, "limit", 1000, high=MOST_ROWS),
    )
    found = await queries.sessions(at.store, wanted)
    return reply(await queries.rows(at.store, found, at.clock.now()))


async def resolve(request: web.Request) -> web.Response:
    text = asked_line(request, "session")
    return reply({"session": await names.resolve(desk(request).store, actor(request), text)})


async def _session(request: web.Request) -> tuple[Desk, Session]:
    """The session that the path names."""
    at, parts = desk(request), request.match_info
    name = "/".join(parts[part] for part in ("owner", "dataset", "number"))
    return at, await names.find_session(at.store, name)


async def one_session(request: web.Request) -> web.Response:
    at, session = await _session(request)
    row = await queries.one_row(at.store, session, at.clock.now())
    return reply({**row, **_recorded(session)})


def _recorded(session: Session) -> dict[str, Any]:
    """Everything else that is known of a session."""
    run = session.run
    streams = dict(session.streams)
    attempts = [
        {
            "attempt": number,
            "streams": {
                name: size
                for name, size in streams.items()
                if name.split("/", 1)[1] in _owned(session, number)
            },
        }
        for number in range(1, session.attempt + 1)
    ]
    return {
        "run": plain(run),
        "attempts": attempts,
        "code": run.code,
        "image": run.image or None,
        "environment": run.environment or None,
        "datasets": plain(run.datasets),
        "command": run.command,
        "checkpoint": session.checkpoint,
        "output": session.output or None,
        "tail": session.tail,
    }


def _owned(session: Session, attempt: int) -> set[str]:
    ranks = range(max(1, session.run.request.nodes))
    return {ids.stream_id("", session.id, attempt, rank)[1:] for rank in ranks}


async def why(request: web.Request) -> web.Response:
    at, session = await _session(request)
    return reply(await queries.why(at.store, session, at.clock.now()))


async def checkpoints(request: web.Request) -> web.Response:
    at, session = await _session(request)
    return reply(await queries.checkpoints(at.store, session))


async def plot(request: web.Request) -> web.Response:
    at, session = await _session(request)
    body = await at.curves.plot(session.id)
    return web.Response(body=body, content_type="application/json")


async def output(request: web.Request) -> web.Response:
    """The tree of what the session produced, null for nothing; while it runs, the node is asked."""
    at, session = await _session(request)
    if session.state is State.RUNNING:
        actor(request).must_own(session.owner, f"The session {session.id}")
        answer = await question(at, actor(request), session.id, session.state, "output", "", ids.new_id())
        if not answer.ok:
            raise Refused(f"{session.id} could not give its files: {answer.data[:500]}.")
        return reply({"tree": answer.data})
    return reply({"tree": session.output or None})


async def log(request: web.Request) -> web.StreamResponse:
    at, session = await _session(request)
    look = logs.Look(stream=asked_line(request, "stream"), color=asked_flag(request, "color"))
    if look.stream not in logs.STREAMS:
        raise BadInput(f"There is no stream {look.stream!r}.", hint="Streams are: stdout, stderr.")
    wanted = stream.Wanted(
        look=look,
        rank=asked_whole(request, "rank", 0, high=10_000),
        offset=asked_whole(request, "offset", 0),
        lines=asked_whole(request, "tail", 0, high=10**9) if request.query.get("tail") else None,
        since=asked_number(request, "since"),
    )
    return await stream.send_log(request, at, session, wanted, asked_flag(request, "follow"))


async def follow(request: web.Request) -> web.StreamResponse:
    at, session = await _session(request)
    return await stream.send_life(request, at, session)


# -- datasets --------------------------------------------------------------------------------------
async def datasets(request: web.Request) -> web.Response:
    return reply(await queries.datasets(desk(request).store, actor(request)))


async def one_dataset(request: web.Request) -> web.Response:
    at = desk(request)
    dataset = await names.find_dataset(
        at.store, actor(request), request.match_info["name"], asked_line(request, "owner")
    )
    wanted = asked_whole(request, "version", 0)
    version = dataset.version(wanted or None)
    if version is None:
        raise NotFound(
            f"The dataset {dataset.name} has no version {wanted}; the newest is {dataset.last}.",
            hint=f"Write {dataset.name}@{dataset.last}.",
        )
    versions = [{**queries.dataset_row(dataset, v), "tree": v.tree} for v in dataset.versions]
    return reply({**queries.dataset_row(dataset, version), "tree": version.tree, "versions": versions})
