"""Which events are worth a mail, and that no text of a session can do harm in one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml.core import catalogue as c
from nsml.core.messages import Message
from nsml.notify import rules

MAILING = rules.Mailing(operator="ops")
ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b31m\x00\x08\u202eevil\u2028"


def a_failure(**changes: object) -> c.SessionFailed:
    facts: dict[str, object] = {
        "session": "alice/mnist/12",
        "owner": "alice",
        "attempt": 2,
        "code": 1,
        "cause": "error",
        "seconds": 3725.0,
        "reason": "exit code 1",
        "node": "n1",
        "tail": "Traceback:\n  boom\n",
    }
    return c.SessionFailed(**{**facts, **changes})  # type: ignore[arg-type]


def mail_of(event: Message) -> c.NoticeDue:
    due = rules.notice(event, MAILING)
    assert due is not None
    return due


def test_a_failure_is_mailed_to_its_owner_with_all_that_helps():
    due = mail_of(a_failure())
    assert due.recipient == "alice@localhost"
    assert due.subject == "[nsml] alice/mnist/12 failed: exit code 1"
    assert due.session == "alice/mnist/12"
    for part in ("exit code 1", "Exit code  1", "n1", "1 h 2 min", "  |   boom"):
        assert part in due.text
    assert "nsml logs alice/mnist/12" in due.text and "nsml resume alice/mnist/12" in due.text


@pytest.mark.parametrize(
    "cause", ["error", "oom", "time", "lost", "killed", "environment", "disk", "processes"]
)
def test_every_cause_of_a_failure_is_named_even_without_a_reason(cause):
    due = mail_of(a_failure(cause=cause, reason="", code=None))
    assert f"{cause}: " in due.text and "Exit code" not in due.text
    assert due.subject.startswith("[nsml] alice/mnist/12 failed: ")


@pytest.mark.parametrize(
    "event",
    [
        c.SessionStopped(session="a/b/1", owner="a", attempt=1, reason="stopped by a"),
        c.SessionCompleted(session="a/b/1", owner="a", attempt=1, seconds=1.0),
        c.SessionRequeued(session="a/b/1", owner="a", attempt=1, reason="node lost"),
        c.NodeDrained(node="n1", reason="repair"),
    ],
)
def test_what_a_person_did_or_waited_for_is_not_mailed(event):
    assert rules.notice(event, MAILING) is None


def test_only_the_last_lines_of_the_log_are_mailed():
    due = mail_of(a_failure(tail="\n".join(f"line {n}" for n in range(100))))
    assert "  | line 80\n" in due.text and "  | line 99" in due.text and "line 79" not in due.text


def test_a_session_that_printed_nothing_is_said_to_have():
    assert "It printed nothing." in mail_of(a_failure(tail="\n \n")).text


def test_the_log_is_shown_as_a_terminal_would_have_left_it():
    due = mail_of(a_failure(tail="10%\r50%\r100%\r\n\x1b[1;32mdone\x1b[0m\r\n"))
    assert "  | 100%\n  | done\n" in due.text


def test_a_lost_node_is_one_mail_to_the_operator_that_lists_its_sessions():
    event = c.NodeLost(node="n1", reason="silent for 30 s")
    due = rules.notice(event, MAILING, [f"alice/mnist/{n}" for n in range(8)])
    assert due is not None and due.recipient == "ops@localhost"
    assert due.subject == "[nsml] node n1 is lost, 8 sessions affected"
    assert all(f"  alice/mnist/{n}\n" in due.text for n in range(8)) and "silent for 30 s" in due.text


def test_a_lost_node_without_sessions_says_so_and_a_full_one_does_not_flood():
    assert "No session was on it." in mail_of(c.NodeLost(node="n1", reason="")).text
    many = rules.notice(c.NodeLost(node="n1", reason=""), MAILING, [f"a/b/{n}" for n in range(500)])
    assert many is not None and "and 400 more" in many.text and len(many.text.splitlines()) < 120


@pytest.mark.parametrize("field", ["session", "reason", "node", "cause"])
def test_control_characters_never_reach_a_mail(field):
    hostile = f"x\r\nBcc: victim@example.org\r\n\r\n{ESCAPES}"
    due = mail_of(a_failure(**{field: hostile}))
    assert due.subject.isprintable()
    assert all(line.isprintable() for line in due.text.split("\n"))
    assert not any(line.startswith("Bcc:") for line in due.text.split("\n"))


@pytest.mark.parametrize("owner", ["", "x\r\nBcc: y", "a@b", "-rf", "é", "a b", "x" * 65, "$(reboot)"])
def test_an_owner_that_cannot_be_an_address_leaves_the_mail_to_the_operator(owner):
    assert mail_of(a_failure(owner=owner)).recipient == "ops@localhost"


def test_a_hostile_session_name_is_quoted_where_it_is_to_be_typed():
    assert "nsml resume 'a b; reboot'" in mail_of(a_failure(session="a b; reboot")).text


@given(st.text(max_size=2000), st.text(max_size=300), st.text(max_size=300))
def test_no_text_at_all_makes_a_subject_or_line_unprintable_or_endless(tail, reason, session):
    due = mail_of(a_failure(tail=tail, reason=reason, session=session))
    assert due.subject.isprintable() and len(due.subject) <= rules.SUBJECT
    lines = due.text.split("\n")
    assert len(lines) < 50
    assert all(line.isprintable() and len(line) <= 300 for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 s"), (59.4, "59.4 s"), (184.0, "3 min 4 s"), (7500.0, "2 h 5 min")]
)
def test_durations_are_for_people(seconds, text):
    assert rules.duration(seconds) == text
