"""Every command, event and telemetry record: the whole protocol on two screens."""

from __future__ import annotations

from dataclasses import dataclass, field

from nsml.core.messages import Message, command, event, local, telemetry
from nsml.core.resources import Capacity, Request, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRef:
    """A dataset version as a session uses it; `tree` is the digest of its file list."""

    name: str
    owner: str
    version: int
    tree: str
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is to run: code (tree digest), entry file in it, arguments, image, datasets, limits in seconds.

    `iteration` is the checkpoint to start from and `parent` the session it belongs to (itself for a resume).
    `environment` is the digest of what the code asks to be installed (for locality), empty for nothing.
    """

    code: str
    entry: str = "main.py"
    args: tuple[str, ...] = ()
    image: str = ""
    datasets: tuple[DatasetRef, ...] = ()
    request: Request = field(default_factory=Request)
    priority: int = 0
    retries: int = 0
    max_seconds: float = 0.0
    env: tuple[tuple[str, str], ...] = ()
    environment: str = ""
    strict_env: bool = False
    parent: str = ""
    iteration: str | None = None
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpec:
    """Everything a node needs to start its share of an attempt without asking anybody.

    `hosts` are the nodes of all ranks, in order; `gpus` the indices this share holds.
    """

    run: Run
    owner: str
    kind: str = "normal"
    gpus: tuple[int, ...] = ()
    rank: int = 0
    hosts: tuple[str, ...] = ()


# -- sessions: users ask ----------------------------------------------------------------------------
@command("session.run", by={"user"})
class RunSession(Message):
    """Queue a session; with `no_queue` it is turned away when nothing is free."""

    session: str
    run: Run
    kind: str = "normal"
    memo: str = ""
    no_queue: bool = False
    interactive: bool = False


@command("session.stop", by={"user"})
class StopSession(Message):
    """Stop a session; what it saved stays. `now` skips the grace in which it may save."""

    session: str
    reason: str = ""
    now: bool = False


@command("session.remove", by={"user"})
class RemoveSession(Message):
    """Remove an ended session and what it saved; with `force` a running one is stopped first."""

    session: str
    force: bool = False


@command("session.resume", by={"user"})
class ResumeSession(Message):
    """Queue an ended session again under its own name, from checkpoint `iteration` (None: from the start)."""

    session: str
    iteration: str | None = None


@command("session.note", by={"user"})
class NoteSession(Message):
    """Replace a session's memo."""

    session: str
    memo: str


@command("session.ask", by={"user"})
class AskSession(Message):
    """Put a question to a running session; the answer is an `attempt.answered` whose `ask` is `ask`."""

    session: str
    ask: str
    verb: str
    data: str = ""


# -- sessions: the placing loop and liveness decide (never on the wire) ------------------------------
@local("session.place")
class PlaceSession(Message):
    """Give a queued session its slots, all of them at once."""

    session: str
    slots: tuple[Slot, ...]


@local("session.preempt")
class PreemptSession(Message):
    """Take a session's slots back for one of higher priority; it saves, stops and waits again."""

    session: str
    attempt: int
    reason: str


@local("session.turn_away")
class TurnAwaySession(Message):
    """Drop a queued session that was not to wait (`--no-queue`)."""

    session: str
    reason: str


@local("attempt.lost")
class AttemptLost(Message):
    """What ran on `node` for this attempt is gone, with the node."""

    session: str
    attempt: int
    node: str
    reason: str


# -- sessions: what happened ------------------------------------------------------------------------
@event("session.queued", by={"scheduler"})
class SessionQueued(Message):
    session: str
    owner: str


@event("session.placed", by={"scheduler"})
class SessionPlaced(Message):
    session: str
    owner: str
    attempt: int
    slots: tuple[Slot, ...]


@event("session.started", by={"scheduler"})
class SessionStarted(Message):
    session: str
    owner: str
    attempt: int


@event("session.progressed", by={"scheduler"})
class SessionProgressed(Message):
    session: str
    owner: str
    attempt: int
    phase: str


@event("session.stopping", by={"scheduler"})
class SessionStopping(Message):
    session: str
    owner: str
    attempt: int
    reason: str


@event("session.preempted", by={"scheduler"})
class SessionPreempted(Message):
    session: str
    owner: str
    attempt: int
    reason: str


@event("session.requeued", by={"scheduler"})
class SessionRequeued(Message):
    session: str
    owner: str
    attempt: int
    reason: str


@event("session.noted", by={"scheduler"})
class SessionNoted(Message):
    session: str
    owner: str


@event("session.completed", by={"scheduler"})
class SessionCompleted(Message):
    session: str
    owner: str
    attempt: int
    seconds: float


@event("session.failed", by={"scheduler"})
class SessionFailed(Message):
    """`cause`: error, oom, time, lost, killed, environment; `tail` the last lines of the log."""

    session: str
    owner: str
    attempt: int
    code: int | None
    cause: str
    seconds: float
    reason: str
    node: str = ""
    tail: str = ""


@event("session.stopped", by={"scheduler"})
class SessionStopped(Message):
    session: str
    owner: str
    attempt: int
    reason: str
    seconds: float = 0.0


@event("session.removed", by={"scheduler"})
class SessionRemoved(Message):
    """`turned_away` when it was dropped because it was not to wait; `attempts` so that its streams can go."""

    session: str
    owner: str
    attempts: int = 0
    turned_away: bool = False
    reason: str = ""


# -- attempts: orders to a node ---------------------------------------------------------------------
@command("attempt.start", by={"scheduler"})
class StartAttempt(Message):
    session: str
    attempt: int
    spec: AttemptSpec


@command("attempt.stop", by={"scheduler"})
class StopAttempt(Message):
    """End an attempt: SIGTERM, after `grace` seconds SIGKILL; with `save` the session may save first."""

    session: str
    attempt: int
    rank: int = 0
    grace: float = 10.0
    save: bool = False


@command("attempt.reap", by={"scheduler"})
class ReapAttempt(Message):
    """Forget an ended attempt: only now may its exit go."""

    session: str
    attempt: int


@command("attempt.ask", by={"scheduler"})
class AskAttempt(Message):
    session: str
    attempt: int
    ask: str
    verb: str
    data: str = ""


# -- attempts: what a node tells --------------------------------------------------------------------
@event("attempt.started", by={"node"})
class AttemptStarted(Message):
    session: str
    attempt: int
    rank: int
    node: str
    handle: str = ""


@event("attempt.rejected", by={"node"})
class AttemptRejected(Message):
    """The node does not take the attempt (its GPUs are held, it drains …): nothing was started."""

    session: str
    attempt: int
    rank: int
    node: str
    reason: str


@event("attempt.progressed", by={"node"})
class AttemptProgressed(Message):
    """What the node is doing for the attempt: data, environment, starting, running, saving, paused."""

    session: str
    attempt: int
    node: str
    phase: str
    detail: str = ""


@event("attempt.exited", by={"node"})
class AttemptExited(Message):
    """A rank ended. `cause`: "" (by itself), oom, time, environment, disk, processes, stopped, killed,
    error (it could not be laid out), lost (the machine restarted under it).

    `code` is the program's exit code (128 + signal when killed; None when it never ran), `seconds` its run
    time, `tail` the last lines of its log, `output` the tree digest of the files it produced. Its streams are
    complete when `streams` (name, bytes) are all recorded.
    """

    session: str
    attempt: int
    rank: int
    node: str
    code: int | None
    cause: str = ""
    reason: str = ""
    seconds: float = 0.0
    tail: str = ""
    output: str = ""
    streams: tuple[tuple[str, int], ...] = ()


@event("attempt.answered", by={"node"})
class AttemptAnswered(Message):
    session: str
    ask: str
    ok: bool
    data: str = ""


# -- checkpoints -----------------------------------------------------------------------------------
@event("checkpoint.saved", by={"node"})
class CheckpointSaved(Message):
    """A session saved: the tree's digest and bytes, the values last reported, when it saved."""

    session: str
    attempt: int
    checkpoint: str
    tree: str
    bytes: int
    at: float
    summary: tuple[tuple[str, float | None], ...] = ()


@command("checkpoint.drop", by={"user", "scheduler"})
class DropCheckpoint(Message):
    session: str
    checkpoint: str


@event("checkpoint.kept", by={"scheduler"})
class CheckpointKept(Message):
    """A checkpoint is recorded; told to its session, which remembers the latest."""

    session: str
    checkpoint: str
    at: float


@event("checkpoint.dropped", by={"scheduler"})
class CheckpointDropped(Message):
    session: str
    checkpoint: str


# -- datasets --------------------------------------------------------------------------------------
@command("dataset.push", by={"user"})
class PushDataset(Message):
    """A new version of a dataset, as a tree that is stored already."""

    owner: str
    dataset: str
    tree: str
    files: int
    bytes: int
    force: bool = False
    description: str | None = None
    tags: tuple[str, ...] | None = None
    private: bool | None = None


@command("dataset.remove", by={"user"})
class RemoveDataset(Message):
    owner: str
    dataset: str


@event("dataset.pushed", by={"scheduler"})
class DatasetPushed(Message):
    owner: str
    dataset: str
    version: int


@event("dataset.removed", by={"scheduler"})
class DatasetRemoved(Message):
    owner: str
    dataset: str


# -- nodes -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """An attempt a node holds; `ended` when it waits for its reap only."""

    session: str
    attempt: int
    rank: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """One GPU's reading: percent, bytes, °C, watts; None where the driver does not tell."""

    index: int
    utilization: float | None = None
    memory_used: int | None = None
    temperature: float | None = None
    power: float | None = None


@event("node.reported", by={"node"})
class NodeReported(Message):
    """A heartbeat: what the node has, holds and caches (digests of trees, environments), its load."""

    node: str
    boot: str
    capacity: Capacity
    held: tuple[Holding, ...] = ()
    cached: tuple[str, ...] = ()
    loads: tuple[GpuLoad, ...] = ()
    cpu_percent: float | None = None
    memory_used: int | None = None
    disk_free: int | None = None
    version: str = ""


@command("node.drain", by={"user"})
class DrainNode(Message):
    node: str
    reason: str = ""


@command("node.resume", by={"user"})
class ResumeNode(Message):
    node: str


@local("node.lose")
class LoseNode(Message):
    """A node was silent for too long."""

    node: str
    reason: str


@event("node.joined", by={"scheduler"})
class NodeJoined(Message):
    node: str
    gpus: int


@event("node.drained", by={"scheduler"})
class NodeDrained(Message):
    node: str
    reason: str


@event("node.resumed", by={"scheduler"})
class NodeResumed(Message):
    node: str


@event("node.lost", by={"scheduler"})
class NodeLost(Message):
    node: str
    reason: str


# -- notices (local to the notifier) ----------------------------------------------------------------
@local("notice.due")
class NoticeDue(Message):
    """A mail is owed; the notice's key is the event it tells of."""

    recipient: str
    subject: str
    text: str
    session: str = ""


@local("notice.sent")
class NoticeSent(Message):
    pass


@local("notice.given_up")
class NoticeGivenUp(Message):
    reason: str


# -- answers and telemetry --------------------------------------------------------------------------
@event("command.rejected", by={"scheduler", "node"})
class CommandRejected(Message):
    """A command met no rule; `code` is a class of `nsml.core.errors`. Found by the envelope's `cause`."""

    command: str
    code: str
    message: str
    hint: str = ""


@telemetry("log", by={"node"})
class LogGrew(Message):
    """Bytes of a log stream at an offset; kinds log, log.err, build (see `ids.stream_id`)."""

    session: str
    stream: str
    offset: int
    data: bytes


@telemetry("outbox", by={"node"})
class OutboxGrew(Message):
    """Whole records of a session's outbox (see `nsml.core.outbox`) at an offset."""

    session: str
    stream: str
    offset: int
    data: bytes
