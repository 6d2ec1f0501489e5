"""S3Blobs: content by its SHA-256 in a bucket of an S3 server, through obstore."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore import exceptions as driver
from obstore.store import S3Store

from nsml.core import ids
from nsml.core.errors import BadInput, NotFound, NsmlError, TooLarge, Unavailable
from nsml.store.upload import Upload

T = TypeVar("T")
CHUNK = 1 << 20
PART = 8 << 20  # of a large blob, written or read in one request; S3 takes 10,000 of them
AT_ONCE = 32  # requests under way for one question about many digests
LISTED = 1_000
MOST_COPIED = 5 << 30  # S3 copies no more in one request
TEMPORARY, USED = "tmp", "used"
ABANDONED = 86_400.0  # seconds; no upload takes a day
OPTIONS = ("endpoint", "region")
QUICK = {"timeout": "5s", "connect_timeout": "3s"}  # for questions
BULK = {"timeout": "60s", "connect_timeout": "3s"}  # for a part: enough at 1 Mbit/s
RETRIES: Mapping[str, Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=4)}


class S3Blobs:
    """Blobs in the bucket of `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]`, those of *cluster*; the keys
    come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    `ab/abcdef…` holds what has that digest, `used/abcdef…` is as old as the last time it was asked for by
    `missing` or `sizes`: objects cannot be dated anew. There is no `path`: none lies on this disk.
    """

    def __init__(self, url: str, cluster: str = "default") -> None:
        found = urlsplit(url)
        options = dict(parse_qsl(found.query))
        if found.scheme != "s3" or not found.netloc or "@" in found.netloc or set(options) - set(OPTIONS):
            raise BadInput(
                "The URL for blobs on an S3 server cannot be understood.",
                hint="Write it like s3://nsml?endpoint=http://127.0.0.1:7070&region=us-east-1, "
                "and the keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )
        self.bucket = found.netloc
        self.endpoint = options.get("endpoint", "").rstrip("/")
        self._region = options.get("region", "us-east-1")
        self._prefix = "/".join(p for p in (found.path.strip("/"), ids.name(cluster, "cluster")) if p)
        self._quick: Any = None
        self._bulk: Any = None

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"The bucket {self.bucket}" + (f" at {self.endpoint}" if self.endpoint else "")

    async def __aenter__(self) -> Self:
        try:
            self._quick, self._bulk = self._connection(QUICK), self._connection(BULK)
            await self._have_bucket()
            await self._tidy()
        except BaseException:
            self._quick = self._bulk = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quick = self._bulk = None

    def _connection(self, options: Mapping[str, str], **more: Any) -> Any:
        given: dict[str, Any] = {
            "prefix": self._prefix,
            "region": self._region,
            "retry_config": RETRIES,
            **more,
        }
        if self.endpoint:
            given["endpoint"] = self.endpoint
        client: Any = {**options, "allow_http": self.endpoint.startswith("http:")}
        with self._driver():
            return S3Store(self.bucket, client_options=client, **given)

    async def _have_bucket(self) -> None:
        """Make the bucket if there is none. The driver knows objects only; but to put an object called like
        the bucket, where no bucket is part of the address, is how S3 makes one."""
        try:
            with self._driver():
                await obstore.list_with_delimiter_async(self._quick, prefix=TEMPORARY)
            return
        except _NoBucket:
            pass
        endpoint = self.endpoint or f"https://s3.{self._region}.amazonaws.com"
        above = self._connection(QUICK, prefix=None, endpoint=endpoint, virtual_hosted_style_request=True)
        with suppress(driver.BaseError):  # also of success: its answer is not an object's
            await obstore.put_async(above, self.bucket, _location(self._region), use_multipart=False)
        try:
            await self.ping()
        except _NoBucket as error:
            raise Unavailable(
                f"{self.place} is not there and cannot be made.",
                hint="Make it, or let the keys of AWS_ACCESS_KEY_ID make it.",
            ) from error

    async def ping(self) -> None:
        with self._driver():
            await obstore.list_with_delimiter_async(self._opened(), prefix=TEMPORARY)

    async def put(self, chunks: AsyncIterator[bytes], digest: str = "") -> str:
        wanted = ids.digest(digest) if digest else ""
        sha, size, first = hashlib.sha256(), 0, bytearray()
        upload: Upload | None = None
        # With its digest known it goes where it belongs: nothing is visible before the end, and the end comes
        # only if it is what it should be. Else its place is found out on the way.
        key = _key(wanted) if wanted else f"{TEMPORARY}/{secrets.token_hex(16)}"
        try:
            async for chunk in chunks:
                sha.update(chunk)
                size += len(chunk)
                first += chunk
                if len(first) >= PART:
                    upload = upload or Upload(self._parts(key))
                    await self._hand(upload, bytes(first))
                    first.clear()
            found = sha.hexdigest()
            if wanted and found != wanted:
                raise BadInput(f"The content has the digest {found}, not {wanted}.", hint="Send it again.")
            if upload is None:
                with self._driver():
                    await obstore.put_async(self._opened_bulk(), _key(found), bytes(first))
                return found
            if not wanted and size > MOST_COPIED:
                raise TooLarge("Content of more than 5 GB must be sent with its digest.")
            if first:
                await self._hand(upload, bytes(first))
            with self._driver():
                await upload.finish()
        except BaseException:
            if upload:
                await upload.cut_off()
            raise
        if not wanted:
            await self._move(key, found)
        return found

    def _parts(self, key: str) -> Callable[[AsyncGenerator[bytes, None]], Coroutine[Any, Any, Any]]:
        store = self._opened_bulk()

        async def put(parts: AsyncGenerator[bytes, None]) -> None:
            await obstore.put_async(store, key, parts, use_multipart=True, chunk_size=PART, max_concurrency=2)

        return put

    async def _hand(self, upload: Upload, part: bytes) -> None:
        with self._driver():
            await upload.hand(part)

    async def _move(self, temporary: str, digest: str) -> None:
        try:
            with self._driver():
                await obstore.copy_async(self._opened_bulk(), temporary, _key(digest))
        finally:
            await self._delete(temporary)

    async def put_bytes(self, data: bytes) -> str:
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        with self._driver():
            await obstore.put_async(self._opened_bulk(), _key(digest), data)
        return digest

    async def open(self, digest: str) -> AsyncIterator[bytes]:
        """In parts of a request each, so that a slow reader or a break costs one of them, not all."""
        size = await self._size(ids.digest(digest))
        if size is None:
            raise _not_found(digest)
        for start in range(0, size, PART):
            part = await self._range(digest, start, min(PART, size - start))
            for at in range(0, len(part), CHUNK):
                yield part[at : at + CHUNK]

    async def get_bytes(self, digest: str, limit: int = 64 << 20) -> bytes:
        size = await self._size(ids.digest(digest))
        if size is None:
            raise _not_found(digest)
        if size > limit:
            raise TooLarge(f"The blob {digest} has {size} bytes, over {limit}.")
        parts = [await self._range(digest, start, min(PART, size - start)) for start in range(0, size, PART)]
        return b"".join(parts)

    async def _range(self, digest: str, start: int, length: int) -> bytes:
        try:
            with self._driver():
                return bytes(
                    await obstore.get_range_async(
                        self._opened_bulk(), _key(digest), start=start, length=length
                    )
                )
        except FileNotFoundError as error:
            raise _not_found(digest) from error

    async def _size(self, digest: str) -> int | None:
        try:
            with self._driver():
                return int((await obstore.head_async(self._opened(), _key(digest)))["size"])
        except FileNotFoundError:
            return None

    async def missing(self, digests: Sequence[str]) -> Sequence[str]:
        sizes = await self.sizes(digests)
        return [digest for digest in digests if digest not in sizes]

    async def sizes(self, digests: Sequence[str]) -> Mapping[str, int]:
        wanted = list(dict.fromkeys(ids.digest(digest) for digest in digests))
        sizes = await _each(wanted, self._asked)
        return {digest: size for digest, size in zip(wanted, sizes, strict=True) if size is not None}

    async def _asked(self, digest: str) -> int | None:
        """The bytes of what is there; it is dated anew first, so that no sweep comes between."""
        size = await self._size(digest)
        if size is None:
            return None
        with self._driver():
            await obstore.put_async(self._opened(), f"{USED}/{digest}", b"")
        return await self._size(digest)

    async def drop(self, digest: str) -> None:
        await self._delete(_key(ids.digest(digest)))
        await self._delete(f"{USED}/{digest}")

    async def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._driver():
            await obstore.delete_async(self._opened(), key)

    async def everything(self) -> AsyncIterator[tuple[str, float, int]]:
        """Both listings are in the order of the digests, so they are read side by side."""
        marks = self._listing(USED)
        mark = await anext(marks, None)
        async for digest, stored, size in self._listing(None):
            while mark and mark[0] < digest:
                mark = await anext(marks, None)
            asked = mark[1] if mark and mark[0] == digest else 0.0
            yield digest, max(stored, asked), size

    async def _listing(self, folder: str | None) -> AsyncGenerator[tuple[str, float, int], None]:
        """The digests in *folder*, None for the blobs themselves, which come before the other folders."""
        with self._driver():
            async for batch in obstore.list(self._opened(), prefix=folder, chunk_size=LISTED):
                for found in batch:
                    above, _, name = str(found["path"]).rpartition("/")
                    if ids.DIGEST.fullmatch(name) and (above == USED) == (folder == USED):
                        yield name, found["last_modified"].timestamp(), int(found["size"])

    async def _tidy(self) -> None:
        """Remove what puts that were cut off left behind. Ages are told by the server's own clock."""
        mark = f"{TEMPORARY}/now"
        with self._driver():
            await obstore.put_async(self._opened(), mark, b"")
            listed = await obstore.list_with_delimiter_async(self._opened(), prefix=TEMPORARY)
        ages = {str(found["path"]): found["last_modified"].timestamp() for found in listed["objects"]}
        for path, stored in ages.items():
            if ages.get(mark, 0.0) - stored > ABANDONED:
                await self._delete(path)

    @contextmanager
    def _driver(self) -> Iterator[None]:
        """The driver's errors become ours, except that nothing is there (a FileNotFoundError)."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ValueError, driver.BaseError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> NsmlError:
        said = str(error)
        if "<Code>NoSuchBucket<" in said:
            return _NoBucket(f"{self.place} is not there.", hint="Make it, or start the platform again.")
        refused = isinstance(error, (driver.UnauthenticatedError, driver.PermissionDeniedError))
        if refused or any(code in said for code in _REFUSED):
            return Unavailable(
                f"{self.place} turns the platform away.",
                hint="See that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right, and what they may do.",
            )
        said = said.partition("\n")[0].partition(" - ")[2] or said.partition("\n")[0]
        return Unavailable(
            f"{self.place} cannot be used now: {said[:200].rstrip('. ')}.",
            hint="It goes on by itself when the server is back.",
        )

    def _opened(self) -> Any:
        if self._quick is None:
            raise Unavailable("The platform's blobs are closed: the platform is going down.")
        return self._quick

    def _opened_bulk(self) -> Any:
        self._opened()
        return self._bulk


class _NoBucket(Unavailable):
    """The bucket is not there."""


_REFUSED = ("403 Forbidden", "401 Unauthorized", "UserNotFound<", "InvalidAccessKeyId<", "credential")


def _location(region: str) -> bytes:
    """What S3 wants to be told when it makes a bucket: nothing in its first region."""
    if region == "us-east-1":
        return b""
    constraint = f"<LocationConstraint>{region}</LocationConstraint>"
    return f"<CreateBucketConfiguration>{constraint}</CreateBucketConfiguration>".encode()


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _not_found(digest: str) -> NotFound:
    return NotFound(f"There is no blob {digest}.", hint="Send it again.")


async def _each(items: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, T]]) -> list[T]:
    """What *ask* says of each of *items*, some at once."""
    answers: dict[str, T] = {}
    left = iter(items)

    async def worker() -> None:
        for item in left:
            answers[item] = await ask(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(items))):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [answers[item] for item in items]
