"""The life of a session: single rules, the whole table, and thousands of random histories."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from fakes import an_envelope
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsml.core import catalogue as c
from nsml.core.errors import NotFound, NsmlError, Refused
from nsml.core.messages import Envelope, Message
from nsml.core.plain import plain, restore
from nsml.core.resources import Request, Slot
from nsml.core.session import ENDED, HOLDING, MOST_LOSSES, TRANSITIONS, Session, State, decide, start_of
from nsml.core.subject import Change

ID = "alice/mnist/1"
RUN = c.Run(code="0" * 64, request=Request(gpus=2))
ONE = (Slot(node="n1", gpus=(0, 1)),)
TWO = (Slot(node="n1", gpus=(0, 1)), Slot(node="n2", gpus=(0, 1)))


def a_session(**changes: Any) -> Session:
    made = Session(id=ID, owner="alice", dataset="mnist", state=State.QUEUED, run=RUN, queued=10.0)
    return replace(made, **changes)


def holding(state: State, slots: tuple[Slot, ...] = ONE, **changes: Any) -> Session:
    left = tuple(range(len(slots)))
    return a_session(**{"state": state, "slots": slots, "left": left, "attempt": 1, **changes})


def changed(session: Session | None, message: Message, **meta: Any) -> Change[Session]:
    change = decide(session, an_envelope(message, **meta))
    assert change is not None
    return change


def told(change: Change[Session]) -> list[type[Message]]:
    return [type(message) for message, _ in change.owes]


def exited(code: int | None = 0, **changes: Any) -> c.AttemptExited:
    values = {"session": ID, "attempt": 1, "rank": 0, "node": "n1", "code": code, **changes}
    return c.AttemptExited(**values)


# -- waiting and starting --------------------------------------------------------------------------------
def test_a_run_queues_a_session() -> None:
    change = changed(None, c.RunSession(session=ID, run=RUN, memo="first"))
    assert (change.body.state, change.body.owner, change.body.memo) == (State.QUEUED, "alice", "first")
    assert told(change) == [c.SessionQueued]


def test_a_late_copy_of_the_run_changes_nothing() -> None:
    assert decide(a_session(state=State.COMPLETED), an_envelope(c.RunSession(session=ID, run=RUN))) is None


def test_placing_starts_every_rank_on_its_own_node() -> None:
    change = changed(a_session(), c.PlaceSession(session=ID, slots=TWO))
    starts = [(m.spec.rank, to) for m, to in change.owes if isinstance(m, c.StartAttempt)]
    assert starts == [(0, "n1"), (1, "n2")]
    assert (change.body.state, change.body.attempt, change.body.left) == (State.PLACED, 1, (0, 1))


def test_a_start_sent_again_is_the_same_order() -> None:
    change = changed(a_session(), c.PlaceSession(session=ID, slots=TWO))
    first = [m for m, _ in change.owes if isinstance(m, c.StartAttempt)]
    assert [start_of(change.body, rank) for rank in (0, 1)] == first


def test_a_session_runs_once_all_ranks_started() -> None:
    session = holding(State.PLACED, TWO)
    started = c.AttemptStarted(session=ID, attempt=1, rank=1, node="n2")
    half = changed(session, started).body
    assert half.state is State.PLACED
    assert decide(half, an_envelope(started)) is None
    assert changed(half, replace(started, rank=0, node="n1")).body.state is State.RUNNING


def test_a_rejected_attempt_goes_back_to_the_queue() -> None:
    reject = c.AttemptRejected(session=ID, attempt=1, rank=0, node="n1", reason="its GPUs are held")
    change = changed(holding(State.PLACED), reject)
    assert (change.body.state, change.body.slots) == (State.QUEUED, ())
    assert told(change) == [c.SessionRequeued, c.ReapAttempt]


def test_a_session_that_was_not_to_wait_is_turned_away() -> None:
    change = changed(a_session(), c.TurnAwaySession(session=ID, reason="nothing is free"))
    assert change.body.state is State.REMOVED
    assert change.owes[0][0] == c.SessionRemoved(
        session=ID, owner="alice", turned_away=True, reason="nothing is free"
    )


# -- ends ------------------------------------------------------------------------------------------------
def test_code_0_completes_and_frees_everything() -> None:
    session = holding(State.RUNNING, started=100.0)
    change = changed(session, exited(0), at=160.0)
    assert (change.body.state, change.body.slots, change.body.ran) == (State.COMPLETED, (), 60.0)
    assert told(change) == [c.SessionCompleted, c.ReapAttempt]


def test_another_code_fails_with_its_reason() -> None:
    change = changed(holding(State.RUNNING), exited(3, tail="boom"))
    assert (change.body.state, change.body.reason, change.body.tail) == (State.FAILED, "exit code 3", "boom")


@pytest.mark.parametrize(
    ("exit_", "reason"),
    [
        (exited(137), "killed by signal 9"),
        (exited(137, cause="oom"), "out of memory"),
        (exited(143, cause="time"), "over its time limit of 5 s"),
        (exited(1, reason="pip failed", cause="environment"), "pip failed"),
    ],
)
def test_the_reason_of_a_failure_is_told_apart(exit_: c.AttemptExited, reason: str) -> None:
    session = holding(State.RUNNING, run=replace(RUN, max_seconds=5))
    assert changed(session, exit_).body.reason == reason


def test_retries_are_used_up_one_by_one() -> None:
    session = holding(State.RUNNING, run=replace(RUN, retries=1))
    again = changed(session, exited(1)).body
    assert (again.state, again.failures) == (State.QUEUED, 1)
    placed = changed(again, c.PlaceSession(session=ID, slots=ONE)).body
    assert changed(placed, exited(1, attempt=2)).body.state is State.FAILED


def test_a_time_limit_is_not_tried_again() -> None:
    session = holding(State.RUNNING, run=replace(RUN, retries=5, max_seconds=1))
    assert changed(session, exited(143, cause="time")).body.state is State.FAILED


def test_losses_are_made_good_without_retries_but_not_for_ever() -> None:
    lost = c.AttemptLost(session=ID, attempt=1, node="n1", reason="n1 was lost")
    assert changed(holding(State.RUNNING), lost).body.state is State.QUEUED
    last = changed(holding(State.RUNNING, losses=MOST_LOSSES), lost).body
    assert (last.state, last.cause) == (State.FAILED, "lost")


def test_a_session_whose_machine_restarted_is_lost_and_has_not_failed() -> None:
    found = changed(holding(State.RUNNING), exited(None, cause="lost", reason="it restarted")).body
    assert (found.state, found.losses, found.failures) == (State.QUEUED, 1, 0)


def test_one_failing_rank_stops_the_others_first() -> None:
    change = changed(holding(State.RUNNING, TWO), exited(1))
    assert (change.body.state, change.body.then, change.body.left) == (State.STOPPING, State.FAILED, (1,))
    assert (c.StopAttempt(session=ID, attempt=1, rank=1, grace=10.0), "n2") in change.owes
    end = changed(change.body, exited(143, rank=1, node="n2"))
    assert (end.body.state, end.body.reason) == (State.FAILED, "rank 0 on n1: exit code 1")


def test_an_older_attempts_exit_is_old_news() -> None:
    assert decide(holding(State.RUNNING, attempt=2), an_envelope(exited(0, attempt=1))) is None


# -- stopping --------------------------------------------------------------------------------------------
def test_stopping_waits_for_the_exit() -> None:
    change = changed(holding(State.RUNNING), c.StopSession(session=ID))
    assert (change.body.state, change.body.then) == (State.STOPPING, State.STOPPED)
    end = changed(change.body, exited(143))
    assert (end.body.state, end.body.reason) == (State.STOPPED, "stopped by alice")
    assert told(end) == [c.SessionStopped, c.ReapAttempt]


def test_stopping_twice_is_harmless_and_answered() -> None:
    stopping = changed(holding(State.RUNNING), c.StopSession(session=ID)).body
    assert told(changed(stopping, c.StopSession(session=ID))) == [c.SessionStopping]
    assert told(changed(a_session(state=State.STOPPED), c.StopSession(session=ID))) == [c.SessionNoted]


def test_a_preempted_session_saves_and_waits_again_from_there() -> None:
    session = holding(State.RUNNING, checkpoint="7")
    change = changed(session, c.PreemptSession(session=ID, attempt=1, reason="made room"))
    stop = next(m for m, _ in change.owes if isinstance(m, c.StopAttempt))
    assert stop.save
    back = changed(change.body, exited(143)).body
    assert back.state is State.QUEUED
    again = changed(back, c.PlaceSession(session=ID, slots=ONE))
    start = next(m for m, _ in again.owes if isinstance(m, c.StartAttempt))
    assert (start.spec.run.parent, start.spec.run.iteration) == (ID, "7")


def test_what_completes_while_being_preempted_is_complete() -> None:
    stopping = changed(holding(State.RUNNING), c.PreemptSession(session=ID, attempt=1, reason="")).body
    assert changed(stopping, exited(0)).body.state is State.COMPLETED


def test_a_stop_overrules_a_preemption() -> None:
    stopping = changed(holding(State.RUNNING), c.PreemptSession(session=ID, attempt=1, reason="")).body
    stopped = changed(stopping, c.StopSession(session=ID)).body
    assert changed(stopped, exited(143)).body.state is State.STOPPED


def test_a_running_session_is_removed_by_force_only() -> None:
    with pytest.raises(Refused, match="cannot be removed"):
        decide(holding(State.RUNNING), an_envelope(c.RemoveSession(session=ID)))
    stopping = changed(holding(State.RUNNING), c.RemoveSession(session=ID, force=True)).body
    assert changed(stopping, exited(143)).body.state is State.REMOVED


# -- afterwards ------------------------------------------------------------------------------------------
def test_a_resumed_session_goes_on_from_a_checkpoint_under_the_next_attempt() -> None:
    ended = a_session(state=State.FAILED, attempt=3, failures=2, reason="exit code 1", checkpoint="9")
    queued = changed(ended, c.ResumeSession(session=ID, iteration="9")).body
    assert (queued.state, queued.attempt, queued.failures, queued.reason) == (State.QUEUED, 3, 0, "")
    placed = changed(queued, c.PlaceSession(session=ID, slots=ONE))
    start = next(m for m, _ in placed.owes if isinstance(m, c.StartAttempt))
    assert (start.attempt, start.spec.run.iteration) == (4, "9")


def test_an_older_save_does_not_replace_a_newer_one() -> None:
    session = a_session(state=State.COMPLETED, checkpoint="9", saved=50.0)
    assert decide(session, an_envelope(c.CheckpointKept(session=ID, checkpoint="8", at=40.0))) is None


def test_a_session_does_not_go_on_from_a_checkpoint_that_was_dropped() -> None:
    session = a_session(state=State.QUEUED, attempt=1, checkpoint="9")
    assert changed(session, c.CheckpointDropped(session=ID, checkpoint="9")).body.checkpoint is None
    assert decide(session, an_envelope(c.CheckpointDropped(session=ID, checkpoint="8"))) is None


def test_nothing_brings_a_removed_session_back() -> None:
    tombstone = changed(a_session(state=State.COMPLETED), c.RemoveSession(session=ID)).body
    assert decide(tombstone, an_envelope(c.RunSession(session=ID, run=RUN))) is None
    with pytest.raises(NotFound, match="was removed"):
        decide(tombstone, an_envelope(c.ResumeSession(session=ID)))


def test_what_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="no session alice/mnist/1"):
        decide(None, an_envelope(c.StopSession(session=ID)))
    assert decide(None, an_envelope(exited(0))) is None


# -- the whole table -------------------------------------------------------------------------------------
MESSAGES: tuple[type[Message], ...] = (
    c.RunSession, c.StopSession, c.RemoveSession, c.ResumeSession, c.NoteSession,
    c.PlaceSession, c.PreemptSession, c.TurnAwaySession,
    c.AttemptStarted, c.AttemptRejected, c.AttemptProgressed, c.AttemptExited, c.AttemptLost, c.CheckpointKept,
    c.CheckpointDropped,
)  # fmt: skip
RESTING = frozenset({State.QUEUED, *ENDED})
EVERY = frozenset(State)

IGNORED: dict[type[Message], frozenset[State]] = {
    c.RunSession: EVERY,  # a late copy of the message that made it
    c.PlaceSession: EVERY - {State.QUEUED},  # stopped, or placed already, between plan and commit
    c.TurnAwaySession: EVERY - {State.QUEUED},
    c.PreemptSession: EVERY - {State.PLACED, State.RUNNING},  # ended, or stopping, between plan and commit
    c.AttemptStarted: EVERY - {State.PLACED},  # a repeat, or overtaken by its exit or a stop
    c.AttemptRejected: EVERY - {State.PLACED, State.STOPPING},
    c.AttemptProgressed: EVERY - HOLDING,
    c.AttemptExited: EVERY - HOLDING,
    c.AttemptLost: EVERY - HOLDING,
    c.CheckpointKept: frozenset({State.REMOVED}),
    c.CheckpointDropped: frozenset({State.REMOVED}),
}
REFUSED: dict[type[Message], frozenset[State]] = {
    c.StopSession: frozenset({State.REMOVED}),
    c.RemoveSession: frozenset({State.REMOVED}),
    c.ResumeSession: EVERY - ENDED,
    c.NoteSession: frozenset({State.REMOVED}),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_in_every_state_has_a_rule_or_is_known_to_have_none(
    state: State, message: type[Message]
) -> None:
    has_rule = (state, message) in TRANSITIONS
    known = state in IGNORED.get(message, ()) or state in REFUSED.get(message, ())
    assert has_rule != known


@pytest.mark.parametrize(("message", "states"), REFUSED.items())
def test_a_command_without_a_rule_is_refused_with_a_sentence(
    message: type[Message], states: frozenset[State]
) -> None:
    for state in states:
        session = holding(state) if state in HOLDING else a_session(state=state)
        values = {"memo": "x"} if message is c.NoteSession else {}
        with pytest.raises(NsmlError) as refused:
            decide(session, an_envelope(message(session=ID, **values)))
        assert ID in refused.value.message
        assert "nsml" in refused.value.hint


# -- histories -------------------------------------------------------------------------------------------
class History:
    """A random life: messages made for now or for earlier attempts, repeated and late ones among them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.session: Session | None = None
        self.sent: list[Envelope] = []
        self.at = 100.0
        self.endings = 0

    def step(self) -> None:
        self.at += self.chance.random() * 10
        if self.sent and self.chance.random() < 0.2:
            envelope = self.chance.choice(self.sent)  # a repeat, maybe a very late one
        else:
            envelope = an_envelope(self.message(), actor="user:alice", at=self.at)
            self.sent.append(envelope)
        before = self.session
        try:
            change = decide(before, envelope)
        except NsmlError:
            assert envelope.body.form == "cmd"
            return
        if change is not None:
            self.check(before, change, envelope)
            self.session = change.body

    def message(self) -> Message:
        chance = self.chance
        attempt = max(0, (self.session.attempt if self.session else 0) - chance.choice((0, 0, 0, 0, 1)))
        rank = chance.randrange(2)
        node = "n1" if rank == 0 else "n2"
        who = {"session": ID, "attempt": attempt}
        run = replace(RUN, retries=chance.randrange(3))
        code = chance.choice((0, 0, 1, 137))
        cause = chance.choice(("", "", "", "oom", "time", "stopped"))
        makers: list[Message] = [
            c.RunSession(session=ID, run=run),
            c.PlaceSession(session=ID, slots=chance.choice((ONE, TWO))),
            c.PlaceSession(session=ID, slots=chance.choice((ONE, TWO))),
            c.AttemptStarted(**who, rank=rank, node=node),
            c.AttemptStarted(**who, rank=0, node="n1"),
            c.AttemptProgressed(**who, node=node, phase=chance.choice(("data", "running"))),
            c.AttemptRejected(**who, rank=0, node="n1", reason="held"),
            c.AttemptExited(**who, rank=rank, node=node, code=code, cause=cause),
            c.AttemptExited(**who, rank=0, node="n1", code=code, cause=cause),
            c.AttemptLost(**who, node=node, reason="lost"),
            c.PreemptSession(**who, reason="made room"),
            c.StopSession(session=ID, now=chance.random() < 0.3),
            c.RemoveSession(session=ID, force=chance.random() < 0.1),
            c.ResumeSession(session=ID, iteration=chance.choice((None, "3"))),
            c.NoteSession(session=ID, memo="x"),
            c.CheckpointKept(session=ID, checkpoint="3", at=self.at),
        ]
        return chance.choice(makers)

    def check(self, before: Session | None, change: Change[Session], envelope: Envelope) -> None:
        after = change.body
        self.check_shape(after)
        self.check_path(before, after)
        self.check_owed(before, change)
        if envelope.body.form == "cmd":
            assert any(message.form == "evt" for message, _ in change.owes), "a command that nobody answers"
        assert restore(Session, plain(after)) == after

    @staticmethod
    def check_shape(session: Session) -> None:
        ranks = set(range(len(session.slots)))
        assert bool(session.slots) == (session.state in HOLDING)
        assert bool(session.left) == (session.state in HOLDING)
        assert (session.then is not None) == (session.state is State.STOPPING)
        assert set(session.left) <= ranks
        assert set(session.up) <= ranks
        assert session.ran >= 0
        assert session.waited >= 0

    def check_path(self, before: Session | None, after: Session) -> None:
        if before is None:
            assert after.state is State.QUEUED
            return
        assert before.state is not State.REMOVED
        placed = before.state is State.QUEUED and after.state is State.PLACED
        assert after.attempt == before.attempt + placed
        if before.state in HOLDING and after.state in HOLDING:
            assert after.slots == before.slots, "slots change only by giving all of them back"
            assert set(after.left) <= set(before.left)

    @staticmethod
    def check_owed(before: Session | None, change: Change[Session]) -> None:
        after = change.body
        slots = after.slots or (before.slots if before else ())
        endings = {c.SessionCompleted, c.SessionFailed, c.SessionStopped}
        ended = sum(type(message) in endings for message, _ in change.owes)
        newly = after.state in ENDED and (before is None or before.state not in ENDED)
        assert ended == newly, "exactly one ending"
        for message, to in change.owes:
            if message.form == "cmd":
                assert to in {slot.node for slot in slots}, "an order to a node that has nothing of it"
                assert getattr(message, "attempt") == after.attempt  # noqa: B009
            else:
                assert to == ""
        gone = set(before.left) - set(after.left) if before and before.state in HOLDING else set()
        reaped = {to for message, to in change.owes if isinstance(message, c.ReapAttempt)}
        assert {slots[rank].node for rank in gone} <= reaped, "an attempt that no node is told to forget"


@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(min_value=0, max_value=2**48))
def test_no_history_breaks_an_invariant(seed: int) -> None:
    history = History(seed)
    for _ in range(40):
        history.step()
