"""Which event is worth a mail, to whom, and in which words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nsml.core import catalogue as c
from nsml.core.ids import NAME, printable
from nsml.core.messages import Message

LINES = 20  # of the log: enough for a traceback, short enough for a phone
LINE = 200  # characters of one; in UTF-8 that stays below the 998 bytes that mail allows
SUBJECT = 140
LISTED = 100  # sessions named in one mail
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CAUSES = {
    "error": "it ended with an error",
    "oom": "it ran out of memory",
    "time": "it ran over its time limit",
    "lost": "the node it ran on was lost",
    "killed": "it was killed",
    "environment": "its environment could not be built",
    "disk": "it wrote more than it may",
    "processes": "it started more processes than it may",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """Where mail goes: owners to OWNER@domain, what concerns a node to operator@domain."""

    domain: str = "localhost"
    operator: str = "root"  # whom a machine's mail goes to where nobody said otherwise

    def address(self, user: str) -> str:
        """The address of *user*; the operator's where that cannot be part of an address."""
        return f"{user if NAME.fullmatch(user) else self.operator}@{self.domain}"


def notice(event: Message, mailing: Mailing, affected: Sequence[str] = ()) -> c.NoticeDue | None:
    """The mail that *event* calls for, None when it calls for none; *affected* sessions ran on a lost node.

    What a person did (a stop) or waited for (a completion) is no news by mail.
    """
    if isinstance(event, c.SessionFailed):
        return _failed(event, mailing)
    if isinstance(event, c.NodeLost):
        return _lost(event, mailing, affected)
    return None


def _failed(event: c.SessionFailed, mailing: Mailing) -> c.NoticeDue:
    session = one_line(event.session)
    why = one_line(event.reason) or _CAUSES.get(event.cause, "it failed")
    return c.NoticeDue(
        recipient=mailing.address(event.owner),
        subject=cut(f"[nsml] {session} failed: {why}", SUBJECT),
        text=_failed_text(event, session, why),
        session=event.session,
    )


def _failed_text(event: c.SessionFailed, session: str, why: str) -> str:
    facts = {
        "Reason": why,
        "Cause": one_line(f"{event.cause}: {_CAUSES[event.cause]}") if event.cause in _CAUSES else "",
        "Exit code": "" if event.code is None else str(event.code),
        "Node": one_line(event.node),
        "Attempt": str(event.attempt),
        "Ran for": duration(event.seconds),
    }
    typed = shlex.quote(session)
    parts = [
        f"The session {session} failed.",
        "\n".join(f"  {name:<10} {value}" for name, value in facts.items() if value),
        _log(event.tail),
        f"See its whole log:               nsml logs {typed}\n"
        f"Run it again, from its last save if it has one: nsml resume {typed}",
    ]
    return "\n\n".join(parts) + "\n"


def _log(tail: str) -> str:
    lines = last_lines(tail)
    if not lines:
        return "It printed nothing."
    return "The end of its log:\n\n" + "\n".join(f"  | {line}" for line in lines)


def _lost(event: c.NodeLost, mailing: Mailing, affected: Sequence[str]) -> c.NoticeDue:
    node, why = one_line(event.node), one_line(event.reason)
    count = f", {len(affected)} session{'s' * (len(affected) != 1)} affected" if affected else ""
    return c.NoticeDue(
        recipient=mailing.address(mailing.operator),
        subject=cut(f"[nsml] node {node} is lost{count}", SUBJECT),
        text=f"The node {node} is lost{': ' * bool(why)}{why}.\n\n{_table(affected)}\n\n"
        "It is used again as soon as it answers. See: nsml node ls\n",
    )


def _table(affected: Sequence[str]) -> str:
    if not affected:
        return "No session was on it."
    named = "\n".join(f"  {one_line(session)}" for session in affected[:LISTED])
    more = f"\n  and {len(affected) - LISTED} more" if len(affected) > LISTED else ""
    return f"These sessions were on it; they go back to the queue:\n\n{named}{more}"


# -- hostile text made safe ------------------------------------------------------------------------------
def one_line(text: str) -> str:
    """*text* as one line without control characters: safe in a header and on a terminal."""
    return cut(" ".join(printable(_plain(text)).split()), LINE)


def last_lines(log: str) -> list[str]:
    """The last lines of *log* as a terminal would have left them: no colours, of a progress bar its end."""
    lines = (_plain(line).rstrip("\r").rpartition("\r")[2] for line in log.rstrip().split("\n"))
    shown = [cut(printable(line.expandtabs(4)).rstrip(), LINE) for line in list(lines)[-LINES:]]
    return shown if any(shown) else []


def _plain(text: str) -> str:
    return _TERMINAL.sub("", text)


def cut(text: str, most: int) -> str:
    """*text*, with an ellipsis where it is longer than *most* characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def duration(seconds: float) -> str:
    """Seconds for people: `12 s`, `3 min 4 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
