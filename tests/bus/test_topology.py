from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml.bus import topology
from nsml.core import catalogue  # noqa: F401  (fills CATALOGUE)
from nsml.core.messages import CATALOGUE

WORDS = st.lists(st.sampled_from(["a", "b", "cc"]), min_size=1, max_size=6)
PATTERNS = st.lists(st.sampled_from(["a", "b", "cc", "*", "#"]), min_size=1, max_size=6)


def slowly_fits(pattern: list[str], words: list[str]) -> bool:
    """The rule itself, as one would say it."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(slowly_fits(pattern[1:], words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and slowly_fits(pattern[1:], words[1:])


@given(PATTERNS, WORDS)
def test_bindings_fit_as_topic_exchanges_define_it(pattern, words):
    assert topology.matcher([".".join(pattern)])(".".join(words)) == slowly_fits(pattern, words)


@pytest.mark.parametrize(
    ("binding", "route", "fits"),
    [
        ("cmd.session.*", "cmd.session.stop", True),
        ("cmd.session.*", "cmd.session.stop.n1", False),
        ("cmd.attempt.*.n1", "cmd.attempt.start.n1", True),
        ("cmd.attempt.*.n1", "cmd.attempt.start.n11", False),
        ("cmd.attempt.*.a.b", "cmd.attempt.start.a.b", True),
        ("evt.#", "evt.session.turned.away", True),
        ("evt.#", "evt", True),
        ("#", "anything.at.all", True),
        ("evt.#", "events.session", False),
    ],
)
def test_examples(binding, route, fits):
    assert topology.matcher([binding])(route) is fits


def test_a_pattern_of_many_hashes_takes_no_time():
    assert not topology.matcher([".".join(["#", "a"] * 30)])(".".join(["a"] * 29 + ["b"]))


def heard_by(name: str) -> set[str]:
    """The queues that hear the message called *name*, sent to node n1 if it goes to a node."""
    cls = CATALOGUE[name]
    route = f"{cls.form}.{name}" + (".n1" if name.startswith("attempt.") and cls.form == "cmd" else "")
    queues = (
        topology.scheduler(),
        topology.node("n1"),
        topology.node("n2"),
        topology.notifier(),
        topology.sessions(),
        topology.recorder(),
        topology.follow("x"),
    )
    return {q.name.removeprefix("nsml.") for q in queues if topology.matcher(q.bindings)(route)}


def test_every_command_has_exactly_one_lasting_reader():
    commands = [name for name, cls in CATALOGUE.items() if cls.form == "cmd"]
    assert {name: len(heard_by(name)) for name in commands} == dict.fromkeys(commands, 1)


def test_every_event_and_every_piece_of_telemetry_can_be_followed():
    told = [name for name, cls in CATALOGUE.items() if cls.form in ("evt", "tel")]
    assert [name for name in told if "follow.x" not in heard_by(name)] == []


def test_who_hears_what():
    assert heard_by("attempt.start") == {"node.n1"}
    assert heard_by("attempt.exited") == {"scheduler", "follow.x"}
    assert heard_by("session.failed") == {"notifier", "follow.x"}
    assert heard_by("session.removed") == {"sessions", "recorder", "follow.x"}
    assert heard_by("outbox") == {"sessions", "recorder", "follow.x"}
    assert heard_by("log") == {"recorder", "follow.x"}
