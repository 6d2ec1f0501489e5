"""What passes between a session and its node: notes in the outbox, saved folders, checkpoints asked for."""

from __future__ import annotations

import errno
import os
import time
from itertools import count

from nsml.sdk import context, outbox
from nsml.sdk.say import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Tuple

FRESH = 30.0  # seconds in which another session's checkpoint is not asked for again: an ensemble loads dozens
MOST_FETCHED = 64  # checkpoints that lie here, the oldest goes first
MOST_WAITING = 16  # saves not yet taken away, before a save waits for the node
PATIENCE = 30.0  # seconds of that wait, and until a load that waits says so

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

box = outbox.Outbox(context.SPOOL)
_numbers = count(1)
_fetched: Dict[Tuple[str, str], Tuple[str, float]] = {}


def note(op: str, **fields: Any) -> bool:
    """Write a note with its time; False when it was lost."""
    return box.note(dict(fields, op=op, at=time.time()))


def keep(checkpoint: str, fill: Callable[[str], str]) -> None:
    """Have *fill* write into a fresh folder and hand over what it says is the result, as *checkpoint*.

    A full disk, or a platform in trouble, costs the checkpoint and a warning, not the training.
    """
    saves = os.path.join(context.SPOOL, "saves")
    name = "%06d-%x" % (next(_numbers), time.time_ns())
    begun, done = os.path.join(saves, name + ".tmp"), os.path.join(saves, name)
    try:
        _wait_for_room(saves)
        os.makedirs(begun)
    except OSError as error:
        return _lost(checkpoint, error)
    try:
        result = fill(begun)
        _hand_over(result, done, checkpoint)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _lost(checkpoint, error)
    finally:
        remove(begun)


def fetch(session: str, checkpoint: str) -> str:
    """The folder with *checkpoint* (empty: the latest) of *session*, asked of the node. Raises KeyError when
    there is none."""
    path, when = _fetched.get((session, checkpoint), ("", 0.0))
    if (
        path
        and checkpoint
        and session != context.SESSION_NAME
        and time.monotonic() - when < FRESH
        and os.path.isdir(path)
    ):
        return path
    request = os.urandom(8).hex()
    answer = _answered(request, session, checkpoint)
    if "path" not in answer:
        raise KeyError(
            "No model: %s/nsml_model/%s, %s" % (session, checkpoint or "*", answer.get("message", "absent"))
        )
    _forget(session, checkpoint)
    while len(_fetched) >= MOST_FETCHED:
        _forget(*next(iter(_fetched)))
    path = os.path.join(context.SPOOL, str(answer["path"]))
    _fetched[session, checkpoint] = path, time.monotonic()
    return path


def remove(folder: str) -> None:
    """Remove *folder* and what is in it, if it is there."""
    if os.path.lexists(folder):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _answered(request: str, session: str, checkpoint: str) -> Dict[str, Any]:
    """The node's answer, waited for: user code cannot go on without its model."""
    import json

    inbox = os.path.join(context.SPOOL, "inbox", request + ".json")
    wanted = {"op": "load", "request": request, "session": session, "checkpoint": checkpoint or None}
    began, pause, asked = time.monotonic(), 0.002, False
    while True:
        asked = asked or box.note(wanted)
        try:
            with open(inbox, encoding="utf-8") as file:
                answer: Dict[str, Any] = json.load(file)
            os.unlink(inbox)
            return answer
        except FileNotFoundError:
            time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
        if time.monotonic() - began > PATIENCE:
            warn("load " + request, "still waiting for checkpoint %s of %s" % (checkpoint or "*", session))


def _wait_for_room(saves: str) -> None:
    """Wait while many saves lie there still, so that a fast script fills no disk; but not for ever."""
    until = time.monotonic() + PATIENCE
    while os.path.isdir(saves) and len(os.listdir(saves)) >= MOST_WAITING and time.monotonic() < until:
        time.sleep(0.05)


def _hand_over(result: str, done: str, checkpoint: str) -> None:
    """Give the node the folder *result* under the name *done*, whole or not at all."""
    os.rename(result, done)
    if not note("save", checkpoint=checkpoint, path="saves/" + os.path.basename(done)):
        remove(done)
    _forget(context.SESSION_NAME, checkpoint)


def _lost(checkpoint: str, error: OSError) -> None:
    warn("save " + checkpoint, "checkpoint %s was not saved: %s" % (checkpoint, error))


def _forget(session: str, checkpoint: str) -> None:
    path, _ = _fetched.pop((session, checkpoint), ("", 0.0))
    if path.startswith(os.path.join(context.SPOOL, "loads") + os.sep):
        remove(path)


def _in_a_child() -> None:
    """After a fork: the parent's outbox is the parent's, and what it fetched stays its own to remove."""
    global box
    box.leave()
    box = outbox.Outbox(context.SPOOL)
    _fetched.clear()


if context.IS_ON_NSML:
    os.register_at_fork(after_in_child=_in_a_child)
