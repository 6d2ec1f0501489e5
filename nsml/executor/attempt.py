"""What a node decides about an attempt: take it or not, where to go on with it, how to tell its end. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from nsml.core.catalogue import AttemptExited, AttemptSpec
from nsml.core.ids import attempt_id
from nsml.core.ports import Exit

Name = tuple[str, int]  # (session, attempt): a node has one share of an attempt at most


class Phase(StrEnum):
    """What is done for an attempt, in this order; people see it as the session's phase."""

    DATA = "data"
    ENVIRONMENT = "environment"
    STARTING = "starting"
    RUNNING = "running"
    CLOSING = "closing"
    ENDED = "ended"


class Verdict(StrEnum):
    """What becomes of an order to start: a new attempt; one we have; one that is over; one that cannot be."""

    TAKE = "take"
    REPEAT = "repeat"
    IGNORE = "ignore"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An attempt as its folder keeps it (`spec.json`)."""

    session: str
    attempt: int
    spec: AttemptSpec

    @property
    def id(self) -> str:
        return attempt_id(self.session, self.attempt, self.spec.rank)

    @property
    def name(self) -> Name:
        return self.session, self.attempt

    @property
    def who(self) -> tuple[str, int, int]:
        return self.session, self.attempt, self.spec.rank


def judge(wanted: Kept, active: Iterable[Kept], known: Collection[Name], over: Collection[Name]) -> Verdict:
    """What becomes of the order to start *wanted*, while *active* attempts hold their GPUs."""
    if wanted.name in known:
        return Verdict.REPEAT
    if wanted.name in over:
        return Verdict.IGNORE
    return Verdict.REFUSE if conflict(wanted, active) else Verdict.TAKE


def conflict(wanted: Kept, active: Iterable[Kept]) -> str:
    """Why *wanted* cannot run beside what is *active*; "" when it can. An older attempt of the same session
    is no obstacle: it is ended first."""
    for other in active:
        shared = set(wanted.spec.gpus) & set(other.spec.gpus)
        if shared and not replaces(wanted, other):
            return f"GPU {min(shared)} is held by {other.session}, attempt {other.attempt}"
    return ""


def replaces(wanted: Kept, other: Kept) -> bool:
    """Whether *other* is an older attempt of the session of *wanted*, which must be gone first."""
    return wanted.session == other.session and other.attempt < wanted.attempt


def phase_of(files: Collection[str]) -> Phase:
    """Where to go on with an attempt whose folder has *files*: a restart repeats no more than it must."""
    if "ended.json" in files:
        return Phase.ENDED
    if "pid" in files:
        return Phase.RUNNING
    return Phase.DATA


def exited(
    kept: Kept, node: str, found: Exit, *, tail: str, output: str, streams: Mapping[str, int]
) -> AttemptExited:
    """What is told when everything of an attempt that ended as *found* is safe elsewhere."""
    return AttemptExited(
        session=kept.session,
        attempt=kept.attempt,
        rank=kept.spec.rank,
        node=node,
        code=found.code,
        cause=found.cause,
        reason=found.reason,
        seconds=found.seconds,
        tail=tail,
        output=output,
        streams=tuple((name, size) for name, size in sorted(streams.items()) if size),
    )


def warning(failed: Iterable[str], strict: bool) -> str:
    """What people are told of requirements that could not be installed."""
    then = "The session was not to run without it" if strict else "The session runs without it"
    return "".join(f"[nsml: WARNING: {one!r} could not be installed. {then}.]\n" for one in failed)


def quoted(tail: str) -> str:
    """The end of a build as it stands in a session's log."""
    lines = ["[nsml: The last lines of the build:]", *(f"    {line}" for line in tail.splitlines())]
    return "\n".join(lines) + "\n"
