"""What a node decides about attempts."""

from __future__ import annotations

from nsml.core.catalogue import AttemptSpec, Run
from nsml.core.ports import Exit
from nsml.executor.attempt import Kept, Phase, Verdict, conflict, exited, judge, phase_of


def an_attempt(session: str = "alice/None/1", attempt: int = 1, gpus: tuple[int, ...] = ()) -> Kept:
    return Kept(
        session=session, attempt=attempt, spec=AttemptSpec(run=Run(code=""), owner="alice", gpus=gpus)
    )


def test_a_new_attempt_is_taken() -> None:
    assert judge(an_attempt(), [], set(), set()) is Verdict.TAKE


def test_one_that_is_here_is_not_taken_twice() -> None:
    kept = an_attempt()
    assert judge(kept, [kept], {kept.name}, set()) is Verdict.REPEAT


def test_one_that_is_over_never_starts_again() -> None:
    kept = an_attempt()
    assert judge(kept, [], set(), {kept.name}) is Verdict.IGNORE


def test_a_gpu_is_given_once() -> None:
    holder, wanted = an_attempt(gpus=(0, 1)), an_attempt("bob/None/1", gpus=(1, 2))
    assert judge(wanted, [holder], {holder.name}, set()) is Verdict.REFUSE
    assert "GPU 1 is held by alice/None/1" in conflict(wanted, [holder])


def test_a_newer_attempt_of_the_same_session_takes_over() -> None:
    older, newer = an_attempt(attempt=1, gpus=(0,)), an_attempt(attempt=2, gpus=(0,))
    assert judge(newer, [older], {older.name}, set()) is Verdict.TAKE


def test_a_folder_tells_where_to_go_on() -> None:
    assert phase_of({"spec.json", "app"}) is Phase.DATA
    assert phase_of({"spec.json", "run.json"}) is Phase.DATA
    assert phase_of({"spec.json", "run.json", "pid"}) is Phase.RUNNING
    assert phase_of({"spec.json", "pid", "exit.json"}) is Phase.RUNNING
    assert phase_of({"spec.json", "pid", "exit.json", "ended.json"}) is Phase.ENDED


def test_empty_streams_are_not_told() -> None:
    told = exited(an_attempt(), "n1", Exit(code=0), tail="", output="", streams={"b": 2, "a": 0})
    assert told.streams == (("b", 2),)
