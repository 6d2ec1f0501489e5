"""What happens in `nsml.paused()`: the reserved arguments say why this process was started."""

from __future__ import annotations

import sys

from nsml.sdk import context, session, spool
from nsml.sdk.say import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Sequence


def paused(scope: Any = None) -> None:
    """Load the checkpoint that this process goes on from; return if it is to train, else end it here.

    Called when the script got `--pause 1`; outside NSML it does nothing.
    """
    if not context.IS_ON_NSML:
        return
    if scope is not None:
        session.Bound.scope = scope
    mode = argument("mode", sys.argv) or "train"
    spool.note("paused", mode=mode)
    tell("Paused.")
    _load()
    spool.note("resumed", mode=mode)
    FLOWS.get(mode, _end)(mode)


def argument(name: str, argv: Sequence[str]) -> str:
    """The last value of `--NAME VALUE` or `--NAME=VALUE`: the platform's comes after the user's own."""
    found = ""
    for at, word in enumerate(argv):
        if word == "--" + name and at + 1 < len(argv):
            found = argv[at + 1]
        elif word.startswith("--%s=" % name):
            found = word.partition("=")[2]
    return found


def _load() -> None:
    checkpoint = context.ITERATION or argument("iteration", sys.argv)
    if checkpoint:
        session.load(checkpoint, session=context.PARENT or None)


def _train(mode: str) -> None:
    """The script goes on to train."""


def _end(mode: str) -> None:
    """End the process: a script that does not look at its mode would go on and train, without its data."""
    tell("NSML: this platform runs sessions in mode 'train' only, not '%s'; the session ends here." % mode)
    sys.exit(0)


FLOWS: Dict[str, Callable[[str], None]] = {"train": _train}
