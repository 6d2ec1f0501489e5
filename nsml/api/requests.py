"""Which session a run request was given, so that its repeats find that one, at once or days later."""

from __future__ import annotations

import hashlib

import orjson

from nsml.api.auth import Actor
from nsml.core import ids
from nsml.core.errors import Conflict, Refused
from nsml.core.ports import Clock, Store
from nsml.core.subject import Document

KEPT = 3 * 86400.0  # seconds; a client that repeats itself does so within minutes, a weekend at most
EVERY = 3600.0
AT_ONCE = 1000


def digest(body: object) -> str:
    """What tells one request's content from another's."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def known(store: Store, who: Actor, id: str, content: str) -> str:
    """The session that an earlier copy of this request was given; empty for a new one. Raises `Refused`."""
    document = await store.load(f"request/{id}")
    body = (document.body or {}) if document else {}
    if body and (body.get("owner"), body.get("digest")) != (who.name, content):
        raise Refused("This id was used for another request.", hint="Make a new one for each.")
    return str(body.get("session", ""))


async def name(store: Store, clock: Clock, who: Actor, dataset: str, id: str, content: str) -> str:
    """The name of a new session, written down for the request's repeats."""
    number = await store.count(f"session/{who.name}/{dataset}")
    session = ids.session_id(who.name, dataset, number)
    body = {"session": session, "owner": who.name, "digest": content, "at": clock.now()}
    try:
        await store.commit(Document(key=f"request/{id}", body=body, version=1))
    except Conflict:  # another API process was faster
        return await known(store, who, id, content)
    return session


async def forget(store: Store, before: float) -> None:
    """Drop what was written down before that time, oldest first."""
    while True:
        oldest = await store.scan("request", order="at", limit=AT_ONCE)
        old = [document.key for document in oldest if float((document.body or {}).get("at", 0.0)) < before]
        for key in old:
            await store.drop(key)
        if len(old) < AT_ONCE:
            return
