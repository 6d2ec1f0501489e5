"""Leadership: who may place, and under which term."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nsml.core.errors import Conflict, Fenced, NsmlError, Unavailable
from nsml.core.ports import Clock, Store
from nsml.core.subject import Document
from nsml.scheduler.policy import Patience

KEY = "lease/scheduler"


class Deposed(NsmlError):
    """Another scheduler leads now."""

    code, exit_code, status = "deposed", 1, 409


class Lease:
    """A document that its holder writes again and again. A candidate takes it after having seen it unchanged
    for its whole time on the candidate's own monotonic clock, so clocks need not agree; at once if it was
    given back, if its holder is a dead process of this machine, or if *holder* is who holds it (a former life
    in this process). Taking it adds 1 to the term."""

    def __init__(self, store: Store, clock: Clock, holder: str, patience: Patience) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._patience = patience
        self._mine: Document | None = None
        self._seen: tuple[int, float] | None = None  # version, since when we see it

    @property
    def term(self) -> int:
        return self._mine.term if self._mine else 0

    @property
    def is_mine(self) -> bool:
        return self._mine is not None

    async def acquire(self) -> None:
        """Return once the lease is ours."""
        while not await self.try_take():
            await self._clock.sleep(self._patience.renew / 4)

    async def try_take(self) -> bool:
        """Take the lease if it may be taken now. Raises `Unavailable`."""
        document = await self._store.load(KEY) or Document(key=KEY)
        if not self._is_free(document):
            return False
        try:
            self._mine = await self._write(document, term=document.term + 1)
        except (Conflict, Fenced):
            return False
        self._seen = None
        return True

    def _is_free(self, document: Document) -> bool:
        body = document.body
        if not body or body.get("released") or body["holder"] == self._holder or _is_dead(body, self._holder):
            return True
        now = self._clock.monotonic()
        if self._seen is None or self._seen[0] != document.version:
            self._seen = (document.version, now)
        return now - self._seen[1] > self._patience.lease

    async def _write(self, document: Document, *, term: int, released: bool = False) -> Document:
        body: dict[str, Any] = {
            "holder": self._holder,
            "process": process_start(os.getpid()),
            "at": self._clock.now(),
            "released": released,
        }
        written = Document(key=KEY, body=body, version=document.version + 1, term=term)
        await self._store.commit(written)
        return written

    async def keep(self) -> None:
        """Renew the lease for ever. Raises `Deposed` when another has it, or when the store was away for so
        long that another may have."""
        renewed = self._clock.monotonic()
        while self._mine:
            await self._clock.sleep(self._patience.renew)
            try:
                self._mine = await self._write(self._mine, term=self._mine.term)
                renewed = self._clock.monotonic()
            except Unavailable as error:
                if self._clock.monotonic() - renewed > self._patience.lease:
                    raise Deposed(f"The lease could not be renewed: {error.message}") from error
            except (Conflict, Fenced) as error:
                raise Deposed("Another scheduler holds the lease.") from error

    def forget(self) -> None:
        """We do not lead any more."""
        self._mine = None

    async def release(self) -> None:
        """Give the lease back, so that the next one need not wait."""
        mine, self._mine = self._mine, None
        if mine is None:
            return
        try:
            await self._write(mine, term=mine.term, released=True)
        except (Conflict, Fenced, Unavailable):
            return  # another has it already, or will wait for its time to run out


def _is_dead(body: dict[str, Any], mine: str) -> bool:
    """Whether the holder is a process of this machine that is gone."""
    host, _, pid = str(body["holder"]).rpartition("/")
    if not host or host != mine.rpartition("/")[0] or not pid.isdigit():
        return False
    return process_start(int(pid)) != body.get("process")


def process_start(pid: int) -> str:
    """When process *pid* started, as the kernel counts; empty if there is none (or no way to tell)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
