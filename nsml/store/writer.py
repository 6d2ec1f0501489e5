"""One thread that writes: it takes everything that waits and makes one transaction of it (group commit)."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from nsml.core.errors import NsmlError, Unavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
MOST_AT_ONCE = 1_000  # jobs in a transaction: beyond, waiting for the disk is no longer what costs


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class GroupWriter:
    """Runs jobs on *connection* (made in autocommit mode, used by this thread alone from now on).

    A job that raises an `NsmlError` must have written nothing; any other error undoes the transaction and
    its jobs are run again, each in one of its own. *explain* turns the driver's errors into ours.
    """

    connection: sqlite3.Connection
    explain: Callable[[sqlite3.Error], NsmlError]
    _jobs: queue.SimpleQueue[_Job | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of *work*, once it is on disk."""
        if self._thread is None:
            raise Unavailable("The platform's store is closed: the platform is going down.")
        job = _Job(work, asyncio.get_running_loop().create_future())
        self._jobs.put(job)
        return cast(T, await job.future)

    async def close(self) -> None:
        """Finish what waits, then end the thread and the connection."""
        thread, self._thread = self._thread, None
        if thread:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._batch()
            if batch:
                self._commit(batch)
                _tell(batch)
        self.connection.close()

    def _batch(self) -> tuple[list[_Job], bool]:
        """What waits, at least one job; False beside it when nothing comes any more."""
        batch: list[_Job] = []
        while not batch or (len(batch) < MOST_AT_ONCE and not self._jobs.empty()):
            job = self._jobs.get()
            if job is None:
                return batch, False
            batch.append(job)
        return batch, True

    def _commit(self, batch: list[_Job]) -> None:
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001  (a bug in one job must end neither the thread nor the others)
            self._undo()
            if len(batch) == 1:
                known = isinstance(error, sqlite3.Error)
                batch[0].error = self.explain(cast(sqlite3.Error, error)) if known else error
                return
            for job in batch:
                job.result, job.error = None, None
                self._commit([job])

    def _transact(self, batch: list[_Job]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            try:
                job.result = job.work(self.connection)
            except NsmlError as error:
                job.error = error
        self.connection.execute("COMMIT")

    def _undo(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


def _tell(batch: list[_Job]) -> None:
    """Hand each result to whoever waits for it, with one wake-up of their loop."""
    batch[0].future.get_loop().call_soon_threadsafe(_resolve, batch)


def _resolve(batch: list[_Job]) -> None:
    for job in batch:
        if job.future.done():
            continue  # who asked has gone; it is written all the same
        if job.error:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
