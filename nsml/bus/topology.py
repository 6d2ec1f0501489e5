"""Every queue and its bindings: who hears what."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nsml.core.ports import Queue


def scheduler() -> Queue:
    """What changes documents; consumed by the leader."""
    return Queue(
        name="nsml.scheduler",
        bindings=(
            "cmd.session.*",
            "cmd.dataset.*",
            "cmd.node.*",
            "cmd.checkpoint.*",
            "evt.attempt.*",
            "evt.checkpoint.saved",
            "evt.checkpoint.kept",
            "evt.checkpoint.dropped",
            "evt.node.reported",
        ),
    )


def node(name: str) -> Queue:
    """The orders to one node; few ahead, because one that ends its reader counts against those beside it."""
    return Queue(name=f"nsml.node.{name}", bindings=(f"cmd.attempt.*.{name}",), ahead=8)


def notifier() -> Queue:
    """What people may want a mail about."""
    return Queue(
        name="nsml.notifier",
        bindings=("evt.session.completed", "evt.session.failed", "evt.session.stopped", "evt.node.lost"),
    )


def sessions() -> Queue:
    """What session summaries are made of."""
    return Queue(name="nsml.sessions", bindings=("tel.outbox", "evt.session.removed"))


def recorder() -> Queue:
    """What streams are made of."""
    return Queue(name="nsml.recorder", bindings=("tel.#", "evt.session.removed"))


def follow(unique: str) -> Queue:
    """Everything that happens, for one reader while it reads (an API process); the oldest goes first.

    At most 1,000: pieces of logs have up to 64 KiB each, and a reader that is late reads the stream instead.
    """
    return Queue(name=f"nsml.follow.{unique}", bindings=("evt.#", "tel.#"), lasting=False, most=1_000)


def matcher(bindings: Sequence[str]) -> Callable[[str], bool]:
    """Whether a route fits any of *bindings*: `*` stands for one word, `#` for any number of them."""
    patterns = [tuple(binding.split(".")) for binding in bindings]

    def matches(route: str) -> bool:
        words = tuple(route.split("."))
        return any(_fits(pattern, words) for pattern in patterns)

    return matches


def _fits(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """Whether *words* fit *pattern*, in time that grows with the product of their lengths only."""
    reached = {0}  # how many words the part of the pattern read so far may have taken
    for part in pattern:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in ("*", words[at])}
        if not reached:
            return False
    return len(words) in reached
