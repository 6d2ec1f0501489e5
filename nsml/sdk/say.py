"""What the SDK tells the user on the session's own output: never an exception, never twice."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Set, TextIO

_said: Set[str] = set()
_MOST = 100  # causes remembered; a program that finds more has a log to read


def warn(cause: str, text: str) -> None:
    """One `NSML warning` line on stderr, the first time that *cause* comes up."""
    if cause in _said or len(_said) >= _MOST:
        return
    _said.add(cause)
    tell("NSML warning: " + text, sys.stderr)


def tell(text: str, stream: Optional[TextIO] = None) -> None:
    """A line of output, if anybody still listens."""
    try:
        print(text, file=stream or sys.stdout, flush=True)
    except (OSError, ValueError):
        return
