"""ObjectBlobs: content by its SHA-256, in a folder or an object store, through obstore."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
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
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = LocalStore(self.root, mkdir=True)
            await asyncio.to_thread(self._tidy)
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store = None

    async def ping(self) -> None:
        try:
            await obstore.list_with_delimiter_async(self._opened(), prefix=TEMPORARY)
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error

    def path(self, digest: str) -> Path | None:
        """Where the blob lies on this machine's disk, to be copied or linked; None when it does not."""
        path = self.root / _key(ids.digest(digest))
        return path if path.exists() else None

    async def put(self, chunks: AsyncIterator[bytes], digest: str = "") -> str:
        wanted = ids.digest(digest) if digest else ""
        temporary = f"{TEMPORARY}/{secrets.token_hex(16)}"
        try:
            found = await self._write(temporary, chunks)
            if wanted and found != wanted:
                raise BadInput(f"The content has the digest {found}, not {wanted}.", hint="Send it again.")
            self._protect(temporary)
            await obstore.rename_async(self._opened(), temporary, _key(found))
        except BaseException as error:
            await self._discard(temporary)
            if isinstance(error, (OSError, driver.BaseError)):
                raise _explained(self.root, error) from error
            raise
        return found

    async def _write(self, key: str, chunks: AsyncIterator[bytes]) -> str:
        sha = hashlib.sha256()
        writer = obstore.open_writer_async(self._opened(), key, buffer_size=4 * CHUNK)
        async with writer:
            async for chunk in chunks:
                sha.update(chunk)
                await writer.write(chunk)
        return sha.hexdigest()

    async def _discard(self, key: str) -> None:
        with suppress(FileNotFoundError, driver.BaseError):  # not there: nothing to do; away: swept later
            await obstore.delete_async(self._opened(), key)

    async def put_bytes(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if self._is_stored(digest):
            return digest
        try:
            await obstore.put_async(self._opened(), _key(digest), data)
            self._protect(_key(digest))
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error
        return digest

    async def open(self, digest: str) -> AsyncIterator[bytes]:
        key = _key(ids.digest(digest))
        try:
            found = await obstore.get_async(self._opened(), key)
            async for chunk in found.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except FileNotFoundError as error:
            raise _absent(digest) from error
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error

    async def get_bytes(self, digest: str, limit: int = 64 << 20) -> bytes:
        key = _key(ids.digest(digest))
        try:
            found = await obstore.get_async(self._opened(), key)
            if found.meta["size"] > limit:
                raise TooLarge(f"The blob {digest} has {found.meta['size']} bytes, over {limit}.")
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise _absent(digest) from error
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error

    async def missing(self, digests: Sequence[str]) -> Sequence[str]:
        wanted = [ids.digest(digest) for digest in digests]
        self._opened()
        return await asyncio.to_thread(self._missing, wanted)

    def _missing(self, digests: Iterable[str]) -> list[str]:
        return [digest for digest in digests if not self._is_stored(digest)]

    def _is_stored(self, digest: str) -> bool:
        """Whether *digest* is there; if so, it is dated anew: one system call for both."""
        try:
            os.utime(self.root / _key(digest))
        except FileNotFoundError:
            return False
        return True

    async def drop(self, digest: str) -> None:
        try:
            await obstore.delete_async(self._opened(), _key(ids.digest(digest)))
        except FileNotFoundError:
            return
        except (OSError, driver.BaseError) as error:
            raise _explained(self.root, error) from error

    async def everything(self) -> AsyncIterator[tuple[str, float, int]]:
        try:
            async for batch in obstore.list(self._opened(), chunk_size=LISTED):
                for found in batch:
                    digest = str(found["path"]).rpartition("/")[2]
                    if ids.DIGEST.fullmatch(digest):
                        yield digest, found["last_modified"].timestamp(), int(found["size"])
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


def _absent(digest: str) -> NotFound:
    return NotFound(f"There is no blob {digest}.", hint="Send it again.")


def _explained(root: Path, error: Exception) -> NsmlError:
    said = str(error)
    if "No space left" in said or "Disk quota" in said or "File too large" in said:
        return Unavailable(
            f"The disk that holds {root} is full.", hint="Free some space: it goes on by itself then."
        )
    return Unavailable(f"{root} cannot be used now: {said.splitlines()[0][:300]}.")
