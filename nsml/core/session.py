"""The life of a session: its states, its record, and the one table of what each message does to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from nsml.core import catalogue as c
from nsml.core.errors import NotFound, Refused
from nsml.core.messages import Envelope, Message
from nsml.core.resources import Slot, size
from nsml.core.subject import Change, Subject

MOST_LOSSES = 3  # how often the platform's own losses (a node gone) are made good, retries or not
STOP_GRACE = 10.0  # seconds between SIGTERM and SIGKILL when a person stops a session
PREEMPT_GRACE = 30.0  # longer: the session saves first, so that little work is lost


class State(StrEnum):
    QUEUED = "queued"
    PLACED = "placed"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    REMOVED = "removed"


HOLDING = frozenset({State.PLACED, State.RUNNING, State.STOPPING})
ENDED = frozenset({State.COMPLETED, State.FAILED, State.STOPPED})
ACTIVE = HOLDING | {State.QUEUED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as recorded. `slots`, `left` (ranks not yet ended) and `up` (ranks started) only while it
    holds resources; `then` only while stopping; times in seconds since 1970, durations in seconds."""

    id: str
    owner: str
    dataset: str
    state: State
    run: c.Run
    kind: str = "normal"
    memo: str = ""
    no_queue: bool = False
    interactive: bool = False
    created: float = 0.0
    changed: float = 0.0
    queued: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    waited: float = 0.0
    ran: float = 0.0
    attempt: int = 0
    slots: tuple[Slot, ...] = ()
    up: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    then: State | None = None
    failures: int = 0
    losses: int = 0
    phase: str = ""
    detail: str = ""
    code: int | None = None
    cause: str = ""
    reason: str = ""
    tail: str = ""
    node: str = ""
    output: str = ""
    streams: tuple[tuple[str, int], ...] = ()
    checkpoint: str | None = None
    saved: float = 0.0

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED


Rule = Callable[[Session, Any, Envelope], "Change[Session] | None"]


def decide(session: Session | None, envelope: Envelope) -> Change[Session] | None:
    """The change that a message makes to *session*; None when it makes none.

    Raises `Refused` or `NotFound` for a command that the session's state does not allow.
    """
    message = envelope.body
    if session is None:
        if isinstance(message, c.RunSession):
            return _queue(message, envelope)
        _absent(message)
        return None
    if _is_old_news(session, message):
        return None
    rule = TRANSITIONS.get((session.state, type(message)))
    if rule is not None:
        return rule(session, message, envelope)
    _no_rule(session, message)
    return None


def _is_old_news(session: Session, message: Message) -> bool:
    attempt = getattr(message, "attempt", session.attempt)
    return bool(attempt != session.attempt)


def _absent(message: Message) -> None:
    if message.form == "cmd":
        raise NotFound(f"There is no session {getattr(message, 'session', '')}.", hint="See 'nsml ps -a'.")


def _no_rule(session: Session, message: Message) -> None:
    if message.form != "cmd":
        return
    if isinstance(message, c.RunSession):
        return  # a late copy of the message that made it
    if session.state is State.REMOVED:
        raise NotFound(f"The session {session.id} was removed.", hint="See 'nsml ps -a'.")
    verb, hint = _REFUSALS.get(type(message), ("changed", "nsml ps -a"))
    raise Refused(
        f"{session.id} is {session.state}: it cannot be {verb}.",
        hint=hint.format(session=session.id),
    )


_REFUSALS: Mapping[type[Message], tuple[str, str]] = {
    c.RemoveSession: ("removed", "Type 'nsml rm -f {session}' to stop and remove it."),
    c.ResumeSession: (
        "resumed",
        "Type 'nsml stop {session}' first, or follow it by 'nsml logs -f {session}'.",
    ),
    c.StopSession: ("stopped", "See 'nsml ps -a'."),
}


# -- waiting -----------------------------------------------------------------------------------------
def _queue(message: c.RunSession, envelope: Envelope) -> Change[Session]:
    owner, dataset, _ = message.session.split("/")
    session = Session(
        id=message.session,
        owner=owner,
        dataset=dataset,
        state=State.QUEUED,
        run=message.run,
        kind=message.kind,
        memo=message.memo,
        no_queue=message.no_queue,
        interactive=message.interactive,
        created=envelope.at,
        changed=envelope.at,
        queued=envelope.at,
    )
    return Change(session, ((c.SessionQueued(session=session.id, owner=owner), ""),))


def _place(session: Session, message: c.PlaceSession, envelope: Envelope) -> Change[Session]:
    attempt = session.attempt + 1
    placed = replace(
        session,
        state=State.PLACED,
        attempt=attempt,
        slots=message.slots,
        up=(),
        left=tuple(range(len(message.slots))),
        node=",".join(slot.node for slot in message.slots),
        changed=envelope.at,
        phase="placed",
        detail="",
        waited=session.waited + max(0.0, envelope.at - session.queued),
        code=None,
        cause="",
        reason="",
        tail="",
    )
    run = _from_checkpoint(session)
    starts = tuple((_start(placed, run, rank), slot.node) for rank, slot in enumerate(message.slots))
    told = c.SessionPlaced(session=session.id, owner=session.owner, attempt=attempt, slots=message.slots)
    return Change(placed, ((told, ""), *starts))


def start_of(session: Session, rank: int) -> c.StartAttempt:
    """The order that starts *rank* of the present attempt of a placed session, to be sent again."""
    return _start(session, _from_checkpoint(session), rank)


def _start(placed: Session, run: c.Run, rank: int) -> c.StartAttempt:
    spec = c.AttemptSpec(
        run=run,
        owner=placed.owner,
        kind=placed.kind,
        gpus=placed.slots[rank].gpus,
        rank=rank,
        hosts=tuple(slot.node for slot in placed.slots),
    )
    return c.StartAttempt(session=placed.id, attempt=placed.attempt, spec=spec)


def _from_checkpoint(session: Session) -> c.Run:
    """What the next attempt runs: after a preemption or failure it goes on from the last save."""
    if session.attempt and session.checkpoint is not None and session.run.iteration is None:
        return replace(session.run, parent=session.id, iteration=session.checkpoint)
    if session.run.parent == session.id and session.checkpoint is not None:
        return replace(session.run, iteration=session.checkpoint)
    return session.run


def _stop_waiting(session: Session, message: c.StopSession, envelope: Envelope) -> Change[Session]:
    waited = session.waited + max(0.0, envelope.at - session.queued)
    stopped = replace(session, waited=waited)
    return _end(stopped, envelope, State.STOPPED, reason=message.reason or _by(envelope))


def _turn_away(session: Session, message: c.TurnAwaySession, envelope: Envelope) -> Change[Session]:
    gone = replace(_tombstone(session, envelope), reason=message.reason)
    told = c.SessionRemoved(
        session=session.id,
        owner=session.owner,
        attempts=session.attempt,
        turned_away=True,
        reason=message.reason,
    )
    return Change(gone, ((told, ""),))


# -- holding resources ---------------------------------------------------------------------------------
def _started(session: Session, message: c.AttemptStarted, envelope: Envelope) -> Change[Session] | None:
    if message.rank in session.up or message.rank >= len(session.slots):
        return None
    up = (*session.up, message.rank)
    if len(up) < len(session.slots):
        return Change(replace(session, up=up))
    running = replace(
        session,
        up=up,
        state=State.RUNNING,
        changed=envelope.at,
        started=envelope.at,
        phase="running",
        detail="",
    )
    told = c.SessionStarted(session=session.id, owner=session.owner, attempt=session.attempt)
    return Change(running, ((told, ""),))


def _progressed(session: Session, message: c.AttemptProgressed, envelope: Envelope) -> Change[Session] | None:
    if (session.phase, session.detail) == (message.phase, message.detail):
        return None
    told = c.SessionProgressed(
        session=session.id, owner=session.owner, attempt=session.attempt, phase=message.phase
    )
    return Change(replace(session, phase=message.phase, detail=message.detail), ((told, ""),))


def _rejected(session: Session, message: c.AttemptRejected, envelope: Envelope) -> Change[Session] | None:
    if message.rank not in session.left:
        return None
    session = replace(session, reason=message.reason)
    return _without(session, envelope, message.rank, then=State.QUEUED)


def _exited(session: Session, message: c.AttemptExited, envelope: Envelope) -> Change[Session] | None:
    if message.rank not in session.left:
        return None
    session = _with_output(session, message)
    if message.code == 0 and not message.cause:
        return _without(session, envelope, message.rank, then=None)
    if message.cause == "lost":  # the machine restarted under it: the platform's loss, not the code's failure
        lost = c.AttemptLost(
            session=session.id, attempt=session.attempt, node=message.node, reason=message.reason
        )
        return _lost(session, lost, envelope)
    reason = _why(session, message)
    if len(session.slots) > 1:
        reason = f"rank {message.rank} on {message.node}: {reason}"
    session = replace(
        session,
        code=message.code,
        cause=message.cause or "error",
        reason=reason,
        tail=message.tail,
        failures=session.failures + 1,
    )
    again = message.cause not in ("time", "environment") and session.failures <= session.run.retries
    return _without(session, envelope, message.rank, then=State.QUEUED if again else State.FAILED)


def _why(session: Session, message: c.AttemptExited) -> str:
    if message.reason:
        return message.reason
    if message.cause == "oom":
        limit = f" (limit {size(session.run.request.memory)})" if session.run.request.memory else ""
        return f"out of memory{limit}"
    if message.cause == "time":
        return f"over its time limit of {session.run.max_seconds:g} s"
    if message.code is not None and message.code > 128:
        return f"killed by signal {message.code - 128}"
    return f"exit code {message.code}"


def _lost(session: Session, message: c.AttemptLost, envelope: Envelope) -> Change[Session] | None:
    ranks = [r for r in session.left if session.slots[r].node == message.node]
    if not ranks:
        return None
    losses = session.losses + 1
    session = replace(session, losses=losses, cause="lost", reason=message.reason, code=None)
    then = State.QUEUED if losses <= MOST_LOSSES else State.FAILED
    left = tuple(r for r in session.left if r not in ranks)
    return _settle(replace(session, left=left), envelope, then, tell=_reaps(session, ranks))


def _stop(session: Session, message: c.StopSession, envelope: Envelope) -> Change[Session]:
    reason = message.reason or _by(envelope)
    return _stopping(session, envelope, State.STOPPED, reason, grace=0.0 if message.now else STOP_GRACE)


def _preempt(session: Session, message: c.PreemptSession, envelope: Envelope) -> Change[Session]:
    change = _stopping(session, envelope, State.QUEUED, message.reason, grace=PREEMPT_GRACE, save=True)
    told = c.SessionPreempted(
        session=session.id, owner=session.owner, attempt=session.attempt, reason=message.reason
    )
    return Change(change.body, ((told, ""), *change.owes))


def _remove_running(session: Session, message: c.RemoveSession, envelope: Envelope) -> Change[Session]:
    if not message.force:
        _no_rule(session, message)
    return _stopping(session, envelope, State.REMOVED, _by(envelope), grace=0.0)


def _remove_waiting(session: Session, message: c.RemoveSession, envelope: Envelope) -> Change[Session]:
    if not message.force:
        _no_rule(session, message)
    return _remove(session, message, envelope)


def _stopping(
    session: Session,
    envelope: Envelope,
    then: State,
    reason: str,
    *,
    grace: float,
    save: bool = False,
) -> Change[Session]:
    stopping = replace(session, state=State.STOPPING, then=then, reason=reason, changed=envelope.at)
    return Change(stopping, (_told_stopping(stopping), *_stops(stopping, session.left, grace, save)))


def _told_stopping(session: Session) -> tuple[Message, str]:
    told = c.SessionStopping(
        session=session.id, owner=session.owner, attempt=session.attempt, reason=session.reason
    )
    return told, ""


def _stops(
    session: Session, ranks: tuple[int, ...], grace: float, save: bool
) -> tuple[tuple[Message, str], ...]:
    who: dict[str, Any] = {"session": session.id, "attempt": session.attempt}
    return tuple(
        (c.StopAttempt(**who, rank=rank, grace=grace, save=save), session.slots[rank].node) for rank in ranks
    )


def _reaps(session: Session, ranks: list[int]) -> tuple[tuple[Message, str], ...]:
    reap = c.ReapAttempt(session=session.id, attempt=session.attempt)
    return tuple((reap, session.slots[rank].node) for rank in ranks)


def _without(session: Session, envelope: Envelope, rank: int, then: State | None) -> Change[Session]:
    """*session* once *rank* ended; *then* is where that leads, None for a good end."""
    left = tuple(r for r in session.left if r != rank)
    return _settle(replace(session, left=left), envelope, then, tell=_reaps(session, [rank]))


def _settle(
    session: Session, envelope: Envelope, then: State | None, tell: tuple[tuple[Message, str], ...]
) -> Change[Session]:
    """Ranks are gone: end when they were the last, stop the others when one failed, else just wait."""
    if not session.left:
        change = _end(session, envelope, then or State.COMPLETED)
        return Change(change.body, (*change.owes, *tell))
    if then is None:
        return Change(session, tell)
    change = _stopping(session, envelope, then, session.reason, grace=STOP_GRACE)
    return Change(change.body, (*change.owes, *tell))


def _with_output(session: Session, message: c.AttemptExited) -> Session:
    streams = (*(s for s in session.streams if s[0] not in dict(message.streams)), *message.streams)
    return replace(session, output=message.output or session.output, streams=streams)


# -- stopping ------------------------------------------------------------------------------------------
def _stop_harder(session: Session, message: c.StopSession, envelope: Envelope) -> Change[Session]:
    then = session.then if session.then is State.REMOVED else State.STOPPED
    reason = session.reason if session.then is State.STOPPED else message.reason or _by(envelope)
    stopping = replace(session, then=then, reason=reason)
    stops = _stops(session, session.left, 0.0, save=False) if message.now else ()
    return Change(stopping, (_told_stopping(stopping), *stops))


def _remove_stopping(session: Session, message: c.RemoveSession, envelope: Envelope) -> Change[Session]:
    if not message.force:
        _no_rule(session, message)
    stopping = replace(session, then=State.REMOVED)
    return Change(stopping, (_told_stopping(stopping), *_stops(session, session.left, 0.0, save=False)))


def _stopping_exited(
    session: Session, message: c.AttemptExited, envelope: Envelope
) -> Change[Session] | None:
    if message.rank not in session.left:
        return None
    session = _with_output(session, message)
    well = (
        message.code == 0 and not message.cause and session.then is State.QUEUED and len(session.slots) == 1
    )
    if session.then is State.STOPPED:
        session = replace(session, code=message.code)
    return _gone(session, envelope, (message.rank,), State.COMPLETED if well else None)


def _stopping_rejected(
    session: Session, message: c.AttemptRejected, envelope: Envelope
) -> Change[Session] | None:
    return _gone(session, envelope, (message.rank,)) if message.rank in session.left else None


def _stopping_lost(session: Session, message: c.AttemptLost, envelope: Envelope) -> Change[Session] | None:
    ranks = tuple(r for r in session.left if session.slots[r].node == message.node)
    return _gone(session, envelope, ranks) if ranks else None


def _gone(
    session: Session, envelope: Envelope, ranks: tuple[int, ...], instead: State | None = None
) -> Change[Session]:
    reaps = _reaps(session, list(ranks))
    session = replace(session, left=tuple(r for r in session.left if r not in ranks))
    if session.left:
        return Change(session, reaps)
    change = _end(session, envelope, instead or session.then or State.STOPPED)
    return Change(change.body, (*change.owes, *reaps))


# -- ends ------------------------------------------------------------------------------------------------
def _end(session: Session, envelope: Envelope, state: State, reason: str | None = None) -> Change[Session]:
    """*session* in *state* (an ending, or the queue again), holding nothing."""
    if state is State.REMOVED:
        return _remove(session, None, envelope)
    ran = session.ran + (max(0.0, envelope.at - session.started) if session.started else 0.0)
    ended = replace(
        session,
        state=state,
        slots=(),
        up=(),
        left=(),
        then=None,
        started=0.0,
        ran=ran,
        phase="",
        detail="",
        changed=envelope.at,
        ended=envelope.at,
        reason=session.reason if reason is None else reason,
    )
    who: dict[str, Any] = {
        "session": session.id,
        "owner": session.owner,
        "attempt": session.attempt,
    }
    if state is State.QUEUED:
        told: Message = c.SessionRequeued(**who, reason=ended.reason)
        return Change(replace(ended, queued=envelope.at, ended=0.0), ((told, ""),))
    if state is State.COMPLETED:
        ended = replace(ended, code=0, cause="", reason="")
        return Change(ended, ((c.SessionCompleted(**who, seconds=ran), ""),))
    if state is State.STOPPED:
        return Change(
            replace(ended, cause="stopped"),
            ((c.SessionStopped(**who, reason=ended.reason, seconds=ran), ""),),
        )
    told = c.SessionFailed(
        **who,
        code=ended.code,
        cause=ended.cause,
        seconds=ran,
        reason=ended.reason,
        node=ended.node,
        tail=ended.tail,
    )
    return Change(ended, ((told, ""),))


def _resume(session: Session, message: c.ResumeSession, envelope: Envelope) -> Change[Session]:
    run = session.run
    if message.iteration is not None or run.parent == session.id:
        run = replace(run, parent=session.id, iteration=message.iteration)
    queued = replace(
        session,
        state=State.QUEUED,
        run=run,
        checkpoint=message.iteration,
        queued=envelope.at,
        changed=envelope.at,
        ended=0.0,
        failures=0,
        losses=0,
        code=None,
        cause="",
        reason="",
        tail="",
        no_queue=False,
        interactive=False,
    )
    return Change(queued, ((c.SessionQueued(session=session.id, owner=session.owner), ""),))


def _note(session: Session, message: c.NoteSession, envelope: Envelope) -> Change[Session]:
    told = c.SessionNoted(session=session.id, owner=session.owner)
    return Change(replace(session, memo=message.memo), ((told, ""),))


def _kept(session: Session, message: c.CheckpointKept, envelope: Envelope) -> Change[Session] | None:
    if message.at < session.saved:
        return None
    return Change(replace(session, checkpoint=message.checkpoint, saved=message.at))


def _dropped(session: Session, message: c.CheckpointDropped, envelope: Envelope) -> Change[Session] | None:
    """Nobody goes on from what is not there any more."""
    if session.checkpoint != message.checkpoint:
        return None
    own = session.run.parent == session.id and session.run.iteration == message.checkpoint
    run = replace(session.run, parent="", iteration=None) if own else session.run
    return Change(replace(session, run=run, checkpoint=None))


def _remove(session: Session, message: object, envelope: Envelope) -> Change[Session]:
    told = c.SessionRemoved(session=session.id, owner=session.owner, attempts=session.attempt)
    return Change(_tombstone(session, envelope), ((told, ""),))


def _tombstone(session: Session, envelope: Envelope) -> Session:
    """What is kept so that a late copy of `session.run` cannot bring the session back."""
    return Session(
        id=session.id,
        owner=session.owner,
        dataset=session.dataset,
        state=State.REMOVED,
        run=c.Run(code=""),
        created=session.created,
        changed=envelope.at,
        ended=envelope.at,
        attempt=session.attempt,
    )


def _again(session: Session, message: c.StopSession, envelope: Envelope) -> Change[Session] | None:
    """Stopping what has ended changes nothing; it is told again, so that who asked gets an answer."""
    told = c.SessionNoted(session=session.id, owner=session.owner)
    return Change(session, ((told, ""),))


def _by(envelope: Envelope) -> str:
    kind, name = envelope.who
    return f"stopped by {name or kind}"


Q, P, R, S = State.QUEUED, State.PLACED, State.RUNNING, State.STOPPING

TRANSITIONS: Mapping[tuple[State, type[Message]], Rule] = {
    (Q, c.PlaceSession): _place,
    (Q, c.StopSession): _stop_waiting,
    (Q, c.TurnAwaySession): _turn_away,
    (Q, c.RemoveSession): _remove_waiting,
    (P, c.AttemptStarted): _started,
    (P, c.AttemptRejected): _rejected,
    (P, c.AttemptProgressed): _progressed,
    (P, c.AttemptExited): _exited,
    (P, c.AttemptLost): _lost,
    (P, c.StopSession): _stop,
    (P, c.PreemptSession): _preempt,
    (P, c.RemoveSession): _remove_running,
    (R, c.AttemptProgressed): _progressed,
    (R, c.AttemptExited): _exited,
    (R, c.AttemptLost): _lost,
    (R, c.StopSession): _stop,
    (R, c.PreemptSession): _preempt,
    (R, c.RemoveSession): _remove_running,
    (S, c.AttemptProgressed): _progressed,
    (S, c.AttemptExited): _stopping_exited,
    (S, c.AttemptRejected): _stopping_rejected,
    (S, c.AttemptLost): _stopping_lost,
    (S, c.StopSession): _stop_harder,
    (S, c.RemoveSession): _remove_stopping,
    **{(ended, c.StopSession): _again for ended in ENDED},
    **{(ended, c.ResumeSession): _resume for ended in ENDED},
    **{(ended, c.RemoveSession): _remove for ended in ENDED},
    **{(state, c.NoteSession): _note for state in (*ENDED, *ACTIVE)},
    **{(state, c.CheckpointKept): _kept for state in (*ENDED, *ACTIVE)},
    **{(state, c.CheckpointDropped): _dropped for state in (*ENDED, *ACTIVE)},
}

SESSION: Subject[Session] = Subject("session", Session, decide)
