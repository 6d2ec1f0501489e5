"""The ports: everything outside, as protocols, and the values they exchange. Each has an embedded and a
production adapter that pass the same tests (`tests/contracts`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from nsml.core.catalogue import GpuLoad
from nsml.core.messages import Envelope
from nsml.core.resources import Gpu
from nsml.core.subject import Document


class Port(Protocol):
    """Opened and closed with `async with`; `ping` raises `Unavailable` or `Damaged` with a sentence."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    async def ping(self) -> None: ...


# -- bus -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue and the routes it takes (`*` one word, `#` any number). `lasting` ones keep what nobody has
    settled and make `publish` wait for it (embedded) or survive a restart (production); the others are a
    reader's own, hold at most `most` messages and drop the oldest. A broker hands a consumer at most `ahead`
    messages that it has not settled."""

    name: str
    bindings: tuple[str, ...]
    lasting: bool = True
    most: int = 10_000
    ahead: int = 256


class Delivery(Protocol):
    """A message handed over; settled once by `ack` or `park`; left alone, it comes again."""

    envelope: Envelope

    async def ack(self) -> None: ...
    async def park(self, reason: str) -> None: ...


class Bus(Port, Protocol):
    """Topic exchange with queues. At least once, in no promised order."""

    async def declare(self, queue: Queue) -> None: ...

    async def publish(self, envelope: Envelope) -> None:
        """Return once the message is safe in every bound queue; to nobody is fine. Raises `Unavailable`."""

    def deliveries(self, queue: Queue) -> AsyncGenerator[Delivery, None]:
        """The messages of *queue*, for ever."""
        ...

    async def parked(self) -> Sequence[tuple[Envelope, str]]:
        """What was parked, with the reason, oldest first."""
        ...


# -- store -----------------------------------------------------------------------------------------
class Store(Port, Protocol):
    """Documents, each changed by conditional writes."""

    async def load(self, key: str) -> Document | None: ...

    async def commit(self, document: Document) -> None:
        """Write *document* if the stored version is one less and the stored term not higher.

        Raises `Conflict` when the version moved on, `Fenced` when the term is higher, `Unavailable`.
        """

    async def scan(
        self,
        kind: str,
        where: Mapping[str, object] | None = None,
        *,
        order: str = "",
        limit: int = 1000,
    ) -> Sequence[Document]:
        """Committed documents of *kind*; *where* maps body fields to a value or a tuple of values (any of
        them); *order* is a body field, `-` before it for falling; at most *limit*."""
        ...

    async def tally(
        self, kind: str, by: str, where: Mapping[str, object] | None = None, *, total: str = ""
    ) -> Mapping[str, int]:
        """How many documents of *kind* there are for each value of the body field *by*; with *total*, the
        sum of that field instead."""
        ...

    async def owing(self, limit: int = 1000) -> Sequence[Document]:
        """Documents that owe messages."""
        ...

    async def settle(self, key: str, ids: frozenset[str]) -> None:
        """These owed messages are published: forget them. Does not change `version`."""

    async def count(self, counter: str) -> int:
        """1, 2, 3 …; never the same twice."""
        ...

    async def drop(self, key: str) -> None:
        """Forget a document for good (housekeeping of old tombstones)."""


# -- bytes ------------------------------------------------------------------------------------------
class Streams(Port, Protocol):
    """Append-only byte streams, named by paths."""

    async def append(self, stream: str, offset: int, data: bytes) -> None:
        """Put *data* at *offset*; what is there already counts once. `Conflict` if it would leave a gap."""

    async def read(self, stream: str, offset: int, limit: int) -> bytes: ...
    async def size(self, stream: str) -> int: ...
    async def find(self, prefix: str) -> Sequence[str]:
        """Names of the streams whose name begins with *prefix*, sorted."""
        ...

    async def drop(self, prefix: str) -> None:
        """Forget the streams whose name begins with *prefix*; the space is free afterwards."""


class Blobs(Port, Protocol):
    """Content by its SHA-256."""

    async def put(self, chunks: AsyncIterator[bytes], digest: str = "") -> str:
        """Store and return the digest; nothing is visible before the last chunk. With *digest* given, other
        content is refused with `BadInput`."""
        ...

    async def put_bytes(self, data: bytes) -> str: ...

    def open(self, digest: str) -> AsyncIterator[bytes]:
        """The content in chunks. Raises `NotFound`."""
        ...

    async def get_bytes(self, digest: str, limit: int = 64 << 20) -> bytes: ...
    async def missing(self, digests: Sequence[str]) -> Sequence[str]:
        """Those that are not stored; the others count as stored anew, so that no sweep takes them now."""
        ...

    async def sizes(self, digests: Sequence[str]) -> Mapping[str, int]:
        """The bytes of each of *digests* that is stored; those count as stored anew, as with `missing`."""
        ...

    async def drop(self, digest: str) -> None: ...

    def everything(self) -> AsyncIterator[tuple[str, float, int]]:
        """Each digest with the time it was stored, in seconds since 1970, and its bytes."""
        ...


# -- execution ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Memory, file size and disk in bytes (0: the adapter's default), processes and open files counted,
    `seconds` of run time (0: none), `log` bytes kept in full."""

    memory: int = 0
    shm: int = 0
    cpus: float = 0.0
    processes: int = 4096
    files: int = 65536
    disk: int = 0
    seconds: float = 0.0
    log: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host folder that the session sees read-only at `target`."""

    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One process tree to run: `attempt` names it; `folder` is its run directory on this node."""

    attempt: str
    folder: str
    argv: tuple[str, ...]
    cwd: str
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    gpus: tuple[str, ...] = ()
    image: str = ""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How it ended; `cause`: "" by itself, oom, time, disk, processes, stopped, killed, lost."""

    code: int | None
    cause: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the executor holds: running, or ended and waiting for its reap."""

    attempt: str
    running: bool


class Executor(Port, Protocol):
    """Runs processes that outlive it. Log bytes lie in `folder/log` (both streams, in order) and the
    stderr ranges in `folder/log.err` (pairs of little-endian u64: start, end)."""

    async def start(self, spec: RunSpec) -> None:
        """Idempotent by attempt. Raises `BadInput` when it can never start, `Unavailable` when not now."""

    async def wait(self, attempt: str) -> Exit: ...
    async def stop(self, attempt: str, grace: float) -> None:
        """SIGTERM, after *grace* seconds SIGKILL, to every descendant; returns once all are gone."""

    async def reap(self, attempt: str) -> None:
        """Forget it and its run directory; only now is its exit gone."""

    async def held(self) -> Sequence[Held]:
        """Also what a former process left behind."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a probe sees: the GPUs there are, and how loaded each is."""

    gpus: tuple[Gpu, ...] = ()
    loads: tuple[GpuLoad, ...] = ()


class GpuProbe(Port, Protocol):
    """Reads the node's GPUs; a lost GPU is a reading (unhealthy), not an exception."""

    async def read(self) -> Reading: ...


# -- mail, time -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail; `id` becomes the Message-ID, `thread` groups what belongs together."""

    id: str
    recipient: str
    subject: str
    text: str
    thread: str = ""


class Mailer(Port, Protocol):
    """Sends a mail once per id. Raises `Unavailable` when it may go later, `BadInput` when it never will."""

    async def send(self, mail: Mail) -> None: ...


@runtime_checkable
class Clock(Protocol):
    """Time; the only place from which it is read."""

    def now(self) -> float:
        """Seconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None: ...
