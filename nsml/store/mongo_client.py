"""The connection to MongoDB that the store and the streams share: limits on every call, errors in words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

# How many calls may be under way; motor reads it when it is imported, and takes 5 for each core otherwise.
os.environ.setdefault("MOTOR_MAX_WORKERS", "64")  # noqa: TID251

import bson.errors
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import errors as driver
from pymongo.uri_parser import parse_uri

from nsml.core import ids
from nsml.core.errors import BadInput, Conflict, NsmlError, TooLarge, Unavailable

MOST = 5.5  # seconds any call takes, waiting for its turn included; the driver gives up half a second earlier
LIMITS: Mapping[str, Any] = {
    "timeoutMS": 5_000,  # without it a silent server is waited for, for ever
    "serverSelectionTimeoutMS": 3_000,
    "connectTimeoutMS": 3_000,
    "maxPoolSize": 64,  # one for each of motor's workers, so that none waits for a connection
    "w": "majority",
    "journal": True,
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "retryWrites": True,
    "tz_aware": True,
    "appname": "nsml",
}
DATABASE = "nsml"  # where the URL names none
NOT_ALLOWED = frozenset({13, 18, 8000})  # codes: unauthorized, authentication failed (twice)
INTERRUPTED = frozenset({50, 262, 11600, 11602, 10107, 13435, 189, 91})  # codes: it may go through later


class Unclear(Unavailable):
    """The connection broke before the answer: the write may have happened, or not."""


class Mongo:
    """The collections of *cluster* at *url*; several clusters share a database without meeting."""

    def __init__(self, url: str, cluster: str) -> None:
        self.cluster = ids.name(cluster, "cluster")
        self._url = url
        self._client: Any = None
        self._database: Any = None
        self.place = "MongoDB"  # what messages call it: without user and password

    async def open(self) -> Self:
        try:
            parsed = parse_uri(self._url, warn=True, validate=True)
            client = AsyncIOMotorClient(self._url, **LIMITS)
        except (driver.PyMongoError, ValueError, TypeError) as error:
            raise BadInput(
                f"The URL of the MongoDB server cannot be understood: {_first_line(error)}.",
                hint="Write it like mongodb://user:password@host:27017/nsml.",
            ) from error
        self._client = client
        self._database = client[parsed["database"] or DATABASE]
        hosts = ",".join(f"{host}:{port}" if port else str(host) for host, port in parsed["nodelist"])
        self.place = f"The MongoDB server at {hosts}"
        try:
            await self.ping()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        client, self._client, self._database = self._client, None, None
        if client is not None:
            client.close()

    async def ping(self) -> None:
        async with self.calls() as database:
            await database.command("ping")

    def collection(self, name: str) -> Any:
        """The cluster's collection *name*; to be used within `calls`."""
        return self._opened()[f"{self.cluster}.{name}"]

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """What is done within takes at most `MOST` seconds; else it is `Unclear`."""
        try:
            async with asyncio.timeout(MOST):
                yield
        except TimeoutError as error:
            raise Unclear(f"{self.place} does not answer.", hint=_HINT) from error

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[Any]:
        """The database, for a call or a few within one `limit`; what goes wrong is `Conflict` (something of
        that id is there), `Unclear`, `Unavailable`, `BadInput` or `TooLarge`."""
        database = self._opened()
        try:
            async with self.limit():
                yield database
        except (driver.PyMongoError, bson.errors.BSONError, OverflowError, UnicodeEncodeError) as error:
            raise self._explained(error) from error

    def _opened(self) -> Any:
        if self._database is None:
            raise Unavailable("The platform's store is closed: the platform is going down.")
        return self._database

    def _explained(self, error: Exception) -> NsmlError:
        if isinstance(error, driver.DuplicateKeyError):
            return Conflict("Something of that id is there already.")
        if isinstance(error, driver.DocumentTooLarge):
            return TooLarge("A document of more than 16 MB cannot be stored.")
        if isinstance(error, driver.ConfigurationError):
            return BadInput(f"{self.place} cannot be used: {_first_line(error)}.")
        if isinstance(error, driver.OperationFailure) and not isinstance(error, driver.WTimeoutError):
            return self._refusal(error)
        if isinstance(error, driver.ServerSelectionTimeoutError):
            return Unavailable(f"{self.place} cannot be reached: {_first_line(error)}.", hint=_HINT)
        if isinstance(error, driver.PyMongoError):
            return Unclear(f"{self.place} broke off: {_first_line(error)}.", hint=_HINT)
        return BadInput(f"This cannot be stored: {_first_line(error)}.")

    def _refusal(self, error: driver.OperationFailure) -> NsmlError:
        if error.code in NOT_ALLOWED:
            return Unavailable(
                f"{self.place} turns the platform away: {_first_line(error)}.",
                hint="See that user, password and rights in NSML_STORE and NSML_STREAMS are right.",
            )
        if error.timeout or error.code in INTERRUPTED:
            return Unclear(f"{self.place} cannot do it now: {_first_line(error)}.", hint=_HINT)
        if error.code == 10334:
            return TooLarge("A document of more than 16 MB cannot be stored.")
        return BadInput(f"{self.place} was asked for what it cannot do: {_first_line(error)}.")


class Opened:
    """An adapter that has a `Mongo` while it is open."""

    def __init__(self, url: str, cluster: str) -> None:
        self._mongo = Mongo(url, cluster)

    async def __aenter__(self) -> Self:
        await self._mongo.open()
        try:
            await self._prepare()
        except BaseException:
            self._mongo.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mongo.close()

    async def ping(self) -> None:
        await self._mongo.ping()

    async def _prepare(self) -> None:
        """Make what must be there before the first call."""


_HINT = "It goes on by itself when the server is back."


def _first_line(error: Exception) -> str:
    """What *error* says, without the description of every server that some of the driver's have."""
    said = str(error).partition(", full error")[0].partition(", Timeout:")[0].strip()
    return said.splitlines()[0][:300].rstrip(".") if said else type(error).__name__
