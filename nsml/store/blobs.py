"""ObjectBlobs: content by its SHA-256, in a folder or an object store, through obstore."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import obstore
from obstore import exceptions as driver
from obstore.store import LocalStore

from nsml.core import ids
from nsml.core.errors import BadInput, NotFound, NsmlError, TooLarge, Unavailable

CHUNK = 1 << 20
LISTED = 1_000  # entries of a listing held at a time
READ_ONLY = 0o444  # what is shared by digest must not change under the others
TEMPORARY = "tmp"
ABANDONED = 86_400.0  # seconds; no upload takes a day


class ObjectBlobs:
    """Blobs below a URL, `file:PATH` for a folder; `ab/abcdef…` holds what has that digest.

    A blob that is asked for by `missing` and is there counts as stored anew, so that it is not swept away
    between the answer and the message that refers to it.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition(":")
        if scheme != "file":
            raise BadInput(f"{url!r} is no place for blobs.", hint="Write it like file:/var/lib/nsml/blobs.")
        self.root = Path("/" + rest.lstrip("/") if rest.startswith("//") else rest).absolute()
        self._store: Any = None

    async def __aenter__(self) -> Self:
        with self._driver():
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = LocalStore(self.root, mkdir=True)
            await asyncio.to_thread(self._tidy)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store = None

    async def ping(self) -> None:
        with self._driver():
            await obstore.list_with_delimiter_async(self._opened(), prefix=TEMPORARY)

    def path(self, digest: str) -> Path | None:
        """Where the blob lies on this machine's disk, to be copied or linked; None when it does not."""
        path = self.root / _key(ids.digest(digest))
        return path if path.exists() else None

    async def put(self, chunks: AsyncIterator[bytes], digest: str = "") -> str:
        wanted = ids.digest(digest) if digest else ""
        temporary = f"{TEMPORARY}/{secrets.token_hex(16)}"
        found = await self._write(temporary, chunks)
        if wanted and found != wanted:
            await self._delete(temporary)
            raise BadInput(f"The content has the digest {found}, not {wanted}.", hint="Send it again.")
        with self._driver():
            self._protect(temporary)
            await obstore.rename_async(self._opened(), temporary, _key(found))
        return found

    async def _write(self, key: str, chunks: AsyncIterator[bytes]) -> str:
        """The digest of what is at *key* now. A writer that is left by an error leaves nothing behind."""
        sha = hashlib.sha256()
        writer = obstore.open_writer_async(self._opened(), key, buffer_size=4 * CHUNK)
        try:
            async for chunk in chunks:
                sha.update(chunk)
                with self._driver():
                    await writer.write(chunk)
            with self._driver():
                await writer.close()
        except BaseException as error:
            with suppress(OSError, driver.BaseError):  # it was closing already
                await writer.__aexit__(type(error), error, error.__traceback__)
            raise
        return sha.hexdigest()

    async def put_bytes(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if self._is_stored(digest):
            return digest
        with self._driver():
            await obstore.put_async(self._opened(), _key(digest), data)
            self._protect(_key(digest))
        return digest

    async def open(self, digest: str) -> AsyncIterator[bytes]:
        found = await self._get(digest)
        with self._driver():
            async for chunk in found.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def get_bytes(self, digest: str, limit: int = 64 << 20) -> bytes:
        found = await self._get(digest)
        if found.meta["size"] > limit:
            raise TooLarge(f"The blob {digest} has {found.meta['size']} bytes, over {limit}.")
        with self._driver():
            return bytes(await found.bytes_async())

    async def _get(self, digest: str) -> Any:
        key = _key(ids.digest(digest))
        try:
            with self._driver():
                return await obstore.get_async(self._opened(), key)
        except FileNotFoundError as error:
            raise NotFound(f"There is no blob {digest}.", hint="Send it again.") from error

    async def missing(self, digests: Sequence[str]) -> Sequence[str]:
        wanted = [ids.digest(digest) for digest in digests]
        self._opened()
        return await asyncio.to_thread(self._missing, wanted)

    def _missing(self, digests: Iterable[str]) -> list[str]:
        return [digest for digest in digests if not self._is_stored(digest)]

    async def sizes(self, digests: Sequence[str]) -> Mapping[str, int]:
        wanted = [ids.digest(digest) for digest in digests]
        self._opened()
        return await asyncio.to_thread(self._sizes, wanted)

    def _sizes(self, digests: Iterable[str]) -> dict[str, int]:
        stored = (digest for digest in digests if self._is_stored(digest))
        return {digest: (self.root / _key(digest)).stat().st_size for digest in stored}

    def _is_stored(self, digest: str) -> bool:
        """Whether *digest* is there; if so, it is dated anew: one system call for both."""
        try:
            os.utime(self.root / _key(digest))
        except FileNotFoundError:
            return False
        return True

    async def drop(self, digest: str) -> None:
        await self._delete(_key(ids.digest(digest)))

    async def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._driver():
            await obstore.delete_async(self._opened(), key)

    async def everything(self) -> AsyncIterator[tuple[str, float, int]]:
        with self._driver():
            async for batch in obstore.list(self._opened(), chunk_size=LISTED):
                for found in batch:
                    digest = str(found["path"]).rpartition("/")[2]
                    if ids.DIGEST.fullmatch(digest):
                        yield digest, found["last_modified"].timestamp(), int(found["size"])

    @contextmanager
    def _driver(self) -> Iterator[None]:
        """The driver's errors become ours, except that nothing is there (a FileNotFoundError)."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error

    def _protect(self, key: str) -> None:
        (self.root / key).chmod(READ_ONLY)

    def _opened(self) -> Any:
        if self._store is None:
            raise Unavailable("The platform's blobs are closed: the platform is going down.")
        return self._store

    def _tidy(self) -> None:
        """Remove what puts that were cut off left behind. Ages are told by the disk's own clock."""
        folder = self.root / TEMPORARY
        folder.mkdir(exist_ok=True, mode=0o700)
        mark = folder / "now"
        mark.touch()
        now = mark.stat().st_mtime
        for left in folder.iterdir():
            with suppress(FileNotFoundError):  # its writer was faster
                if now - left.stat().st_mtime > ABANDONED:
                    left.unlink()


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _explained(root: Path, error: Exception) -> NsmlError:
    said = str(error)
    if "No space left" in said or "Disk quota" in said or "File too large" in said:
        return Unavailable(
            f"The disk that holds {root} is full.", hint="Free some space: it goes on by itself then."
        )
    return Unavailable(f"{root} cannot be used now: {said[:300]}.")
