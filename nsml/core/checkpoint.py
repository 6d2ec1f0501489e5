"""A checkpoint: what a session saved under a name, until it is dropped."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nsml.core import catalogue as c
from nsml.core.errors import NotFound
from nsml.core.messages import Envelope
from nsml.core.subject import Change, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint as recorded: tree digest, bytes, time of the save, the values last reported before it.

    Its key is `SESSION/CHECKPOINT`; the same name saved again overwrites it.
    """

    session: str
    checkpoint: str
    tree: str
    bytes: int
    saved: float
    summary: tuple[tuple[str, float | None], ...] = ()
    dropped: bool = False


def name(session: str, checkpoint: str) -> str:
    """The document name of a session's checkpoint."""
    return f"{session}/{checkpoint}"


def decide(checkpoint: Checkpoint | None, envelope: Envelope) -> Change[Checkpoint] | None:
    """The change that a message makes to *checkpoint*. Raises `NotFound` for a drop of what is not there."""
    message = envelope.body
    if isinstance(message, c.CheckpointSaved):
        return _save(checkpoint, message)
    if isinstance(message, c.DropCheckpoint):
        return _drop(checkpoint, message)
    return None


def _save(checkpoint: Checkpoint | None, message: c.CheckpointSaved) -> Change[Checkpoint] | None:
    if checkpoint and checkpoint.saved >= message.at:
        return None
    saved = Checkpoint(
        session=message.session,
        checkpoint=message.checkpoint,
        tree=message.tree,
        bytes=message.bytes,
        saved=message.at,
        summary=message.summary,
    )
    kept = c.CheckpointKept(session=message.session, checkpoint=message.checkpoint, at=message.at)
    return Change(saved, ((kept, ""),))


def _drop(checkpoint: Checkpoint | None, message: c.DropCheckpoint) -> Change[Checkpoint]:
    if checkpoint is None or checkpoint.dropped:
        raise NotFound(
            f"{message.session} has no checkpoint {message.checkpoint}.",
            hint=f"See 'nsml model ls {message.session}'.",
        )
    gone = c.CheckpointDropped(session=message.session, checkpoint=message.checkpoint)
    return Change(replace(checkpoint, dropped=True, summary=()), ((gone, ""),))


CHECKPOINT: Subject[Checkpoint] = Subject("checkpoint", Checkpoint, decide)
