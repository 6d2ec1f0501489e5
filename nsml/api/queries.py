"""Sessions, checkpoints and datasets as people read them: functions over the store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nsml.api.auth import Actor
from nsml.api.words import finite, iso
from nsml.core.checkpoint import CHECKPOINT
from nsml.core.dataset import DATASET, Dataset, DatasetVersion
from nsml.core.ids import fits
from nsml.core.ports import Store
from nsml.core.session import ACTIVE, HOLDING, SESSION, Session, State
from nsml.core.subject import Document
from nsml.core.summary import SUMMARY, Summary

MOST = 100_000
TOGETHER = 500  # sessions whose checkpoints are counted in one question


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which sessions a list is to show; `name` is a pattern as `ids.fits` takes it."""

    all: bool = False
    dataset: str = ""
    owner: str = ""
    name: str = ""
    limit: int = 1000

    def fits(self, session: Session) -> bool:
        if session.state is State.REMOVED or not (self.all or session.state in ACTIVE):
            return False
        return not self.name or fits(session.id, self.name)

    def where(self) -> dict[str, object]:
        """What the store can decide by itself. The state is not among it for `all`: nearly every session
        fits, and the newest are then found by their time alone."""
        where: dict[str, object] = {}
        if self.dataset:
            where["dataset"] = self.dataset
        if self.owner:
            where["owner"] = self.owner
        if not self.all:
            where["state"] = tuple(sorted(state.value for state in ACTIVE))
        return where


async def sessions(store: Store, wanted: Wanted) -> list[Session]:
    """The newest sessions that are wanted; what is read grows with what is shown, not with all there was."""
    some = max(50, wanted.limit + wanted.limit // 4)
    while True:
        documents = await store.scan("session", wanted.where(), order="-created", limit=some)
        found = [s for s in (document.value(SESSION) for document in documents) if s and wanted.fits(s)]
        if len(found) >= wanted.limit or len(documents) < some:
            found.sort(key=lambda s: (s.created, int(s.id.rpartition("/")[2])), reverse=True)
            return found[: wanted.limit]
        some *= 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the scheduler last said about who waits: place in line, reason and nearest change by session."""

    entries: Mapping[str, tuple[int, str, str | None]] = field(default_factory=dict)
    most: int = 0

    def reason(self, session: Session) -> str:
        if session.id in self.entries:
            return self.entries[session.id][1]
        if self.most and len(self.entries) >= self.most:
            return f"more than {len(self.entries)} sessions are before it"
        return "the scheduler has not looked at it yet"

    def position(self, session: Session) -> int | None:
        return self.entries[session.id][0] if session.id in self.entries else None

    def nearest(self, session: Session) -> str | None:
        return self.entries[session.id][2] if session.id in self.entries else None


async def waiting(store: Store) -> Waiting:
    document = await store.load("queue/main")
    listed: Sequence[Mapping[str, Any]] = (document.body or {}).get("waiting", ()) if document else ()
    entries = {
        str(entry["session"]): (int(entry["position"]), str(entry["reason"]), entry.get("nearest") or None)
        for entry in listed
    }
    return Waiting(entries=entries, most=1000)


async def rows(store: Store, found: Sequence[Session], now: float) -> list[dict[str, Any]]:
    """The rows of `ps`."""
    line = await waiting(store) if any(s.state is State.QUEUED for s in found) else Waiting()
    names = [session.id for session in found]
    models, sizes = await _models(store, names), await _models(store, names, total="bytes")
    made = []
    for one in found:
        told = row(one, line, await summary(store, one.id), models.get(one.id, 0), now)
        made.append({**told, "bytes": sizes.get(one.id, 0)})
    return made


async def one_row(store: Store, session: Session, now: float) -> dict[str, Any]:
    return (await rows(store, [session], now))[0]


async def _models(store: Store, names: Sequence[str], total: str = "") -> dict[str, int]:
    """How many checkpoints each session has, or the *total* of one of their fields."""
    counts: dict[str, int] = {}
    for at in range(0, len(names), TOGETHER):
        where = {"session": tuple(names[at : at + TOGETHER]), "dropped": False}
        counts.update(await store.tally("checkpoint", "session", where, total=total))
    return counts


async def summary(store: Store, session: str) -> Summary | None:
    document = await store.load(SUMMARY.key(session))
    return document.value(SUMMARY) if document else None


def row(session: Session, line: Waiting, said: Summary | None, models: int, now: float) -> dict[str, Any]:
    """One row of `ps`: the fixed fields, then ours."""
    run = session.run
    return {
        "session": session.id,
        "status": session.state.value,
        "type": session.kind,
        "created": iso(session.created),
        "args": shlex.join(run.args),
        "summary": finite(said.summary) if said else {},
        "description": session.memo,
        "models": models,
        "gpus": run.request.gpus * run.request.nodes,
        "node": session.node or None,
        "attempt": session.attempt,
        "exit_code": session.code,
        "reason": reason(session, line) or None,
        "progress": _progress(session, said),
        "wait_seconds": round(_waited(session, now), 3),
        "run_seconds": round(_ran(session, now), 3),
        "owner": session.owner,
        "dataset": session.dataset,
        "position": line.position(session) if session.state is State.QUEUED else None,
        "phase": session.phase or None,
        "detail": session.detail or None,
        "cause": session.cause or None,
        "priority": run.priority,
        "interactive": session.interactive,
        "entry": run.entry,
        "ended": iso(session.ended),
    }


def reason(session: Session, line: Waiting) -> str:
    """Why it waits, or why it ended as it did; empty when there is nothing to explain."""
    if session.state is not State.QUEUED:
        return session.reason
    waits = line.reason(session)
    return f"{waits} (before: {session.reason})" if session.reason else waits


def _progress(session: Session, said: Summary | None) -> float | None:
    if said is None or said.progress is None:
        return None
    return min(1.0, max(0.0, said.progress))


def _waited(session: Session, now: float) -> float:
    waits = session.state is State.QUEUED
    return session.waited + (max(0.0, now - session.queued) if waits else 0.0)


def _ran(session: Session, now: float) -> float:
    runs = session.state in HOLDING and session.started > 0
    return session.ran + (max(0.0, now - session.started) if runs else 0.0)


async def why(store: Store, session: Session, now: float) -> dict[str, Any]:
    """What a session waits for, in a sentence, and the smallest change that starts it now."""
    line = await waiting(store) if session.state is State.QUEUED else Waiting()
    nearest = line.nearest(session) if session.state is State.QUEUED else None
    return {"session": session.id, "reason": _sentence(session, line, now), "nearest": nearest}


def _sentence(session: Session, line: Waiting, now: float) -> str:
    because = f": {session.reason}" if session.reason else ""
    match session.state:
        case State.QUEUED:
            return reason(session, line)
        case State.PLACED:
            doing = session.detail or session.phase
            return f"It waits for nothing: {session.node} prepares it" + (f" ({doing})." if doing else ".")
        case State.RUNNING:
            return f"It waits for nothing: it runs on {session.node} for {_ran(session, now):.0f} s now."
        case State.STOPPING:
            return f"It is being stopped{because}."
        case _:
            return f"It waits for nothing: it {_END[session.state]}{because}."


_END = {State.COMPLETED: "completed", State.FAILED: "failed", State.STOPPED: "was stopped"}


async def checkpoints(store: Store, session: Session) -> list[dict[str, Any]]:
    """The rows of `model ls`, in saving order; `elapsed` is since the save before, or since the start."""
    where = {"session": session.id, "dropped": False}
    documents = await store.scan("checkpoint", where, limit=MOST)
    found = sorted((c for c in (d.value(CHECKPOINT) for d in documents) if c), key=lambda c: c.saved)
    before = session.created + (session.waited if session.attempt <= 1 else 0.0)
    made = []
    for one in found:
        made.append(
            {
                "checkpoint": one.checkpoint,
                "modified": iso(one.saved),
                "elapsed": round(max(0.0, one.saved - before), 3),
                "bytes": one.bytes,
                "summary": {name: finite(value) for name, value in one.summary},
                "tree": one.tree,
            }
        )
        before = one.saved
    return made


async def datasets(store: Store, actor: Actor) -> list[dict[str, Any]]:
    """The rows of `dataset ls`: one's own and what others show, by name."""
    documents: Sequence[Document] = await store.scan("dataset", {"removed": False}, limit=MOST)
    found = [d for d in (document.value(DATASET) for document in documents) if d and d.versions]
    seen = [d for d in found if d.owner == actor.name or not d.private]
    return [dataset_row(d, d.versions[-1]) for d in sorted(seen, key=lambda d: (d.name, d.owner))]


def dataset_row(dataset: Dataset, version: DatasetVersion) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "owner": dataset.owner,
        "version": version.number,
        "bytes": version.bytes,
        "files": version.files,
        "modified": iso(version.pushed),
        "description": dataset.description,
        "tags": list(dataset.tags),
        "private": dataset.private,
        "board": False,
    }
