"""Trees to and from the platform: what is missing goes up; what comes down is verified, below its folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from nsml.core.errors import BadInput, Damaged, Refused
from nsml.core.plain import restore
from nsml.core.resources import size
from nsml.core.tree import File, Tree, checked
from nsml_cli import pack
from nsml_cli.below import Below, exactly
from nsml_cli.client import Client
from nsml_cli.shell import Shell

PACK_BYTES = 8 << 20  # of one request: four of them in memory at a time are still little
PACK_FILES = 1000
THREADS = 4
AT_ONCE = 1 << 20  # below that, sending everything costs less than asking what is missing
CHUNK = 1 << 20


class Progress:
    """Bytes moved so far, said once it takes longer than a second."""

    def __init__(self, shell: Shell, verb: str, total: int, files: int) -> None:
        self._shell = shell
        self._verb = verb
        self._total = total
        self._files = files
        self._done = 0
        self._began = time.monotonic()
        self._told = False
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            seconds = time.monotonic() - self._began
            if seconds < 1:
                return
            if not self._told:
                self._told = True
                self._shell.say(f"{self._verb} {self._files} files, {size(self._total)}")
            rate = self._done / seconds
            left = (self._total - self._done) / rate if rate else 0
            self._shell.live(
                f"{size(self._done)} of {size(self._total)}, {size(int(rate))}/s, {left:.0f} s left"
            )

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        if self._told:
            self._shell.say(f"{self._verb} done in {seconds:.1f} s ({size(int(self._total / seconds))}/s)")


# -- up ----------------------------------------------------------------------------------------------
def upload(shell: Shell, found: Sequence[pack.Found], prefix: str = "") -> tuple[Tree, str]:
    """Send what the platform lacks of *found* and the tree of it; the tree and its digest."""
    total = sum(file.bytes for file in found)
    progress = Progress(shell, "Sending", total, len(found))
    if total <= AT_ONCE and len(found) <= PACK_FILES:
        tree, digest, packs = _all_in_one(found, prefix)
        shell.api.call("POST", "/v1/blobs", packs)
        return tree, digest
    api = shell.api
    files = _in_threads([partial(_send, api, batch, prefix, progress) for batch in _batches(found)])
    tree, digest, text = pack.tree_of(file for batch in files for file in batch)
    if len(text) > PACK_BYTES:
        shell.api.call("PUT", f"/v1/blobs/{digest}", text)
    else:
        shell.api.call("POST", "/v1/blobs", _packed(digest, text))
    progress.end()
    return tree, digest


def _all_in_one(found: Sequence[pack.Found], prefix: str) -> tuple[Tree, str, bytes]:
    contents = [pack.content(file) for file in found]
    files = [_file(file, prefix, content) for file, content in zip(found, contents, strict=True)]
    tree, digest, text = pack.tree_of(files)
    blobs = {file.sha256: content for file, content in zip(files, contents, strict=True)}
    return tree, digest, b"".join(_packed(*item) for item in {**blobs, digest: text}.items())


class _Sized(Protocol):
    @property
    def bytes(self) -> int: ...


Some = TypeVar("Some", bound=_Sized)


def _batches(files: Sequence[Some]) -> Iterator[list[Some]]:
    """Groups of small files that go in one request; each large one alone."""
    batch: list[Some] = []
    held = 0
    for file in files:
        if file.bytes > PACK_BYTES:
            yield [file]
            continue
        if batch and (held + file.bytes > PACK_BYTES or len(batch) == PACK_FILES):
            yield batch
            batch, held = [], 0
        batch.append(file)
        held += file.bytes
    if batch:
        yield batch


def _send(api: Client, batch: Sequence[pack.Found], prefix: str, progress: Progress) -> list[File]:
    if batch[0].bytes > PACK_BYTES:
        return [_send_large(api, batch[0], prefix, progress)]
    contents = [pack.content(file) for file in batch]
    files = [_file(file, prefix, content) for file, content in zip(batch, contents, strict=True)]
    blobs = {file.sha256: content for file, content in zip(files, contents, strict=True)}
    lacking = _missing(api, list(blobs))
    if lacking:
        api.call("POST", "/v1/blobs", b"".join(_packed(digest, blobs[digest]) for digest in lacking))
    progress.add(sum(file.bytes for file in files))
    return files


def _send_large(api: Client, found: pack.Found, prefix: str, progress: Progress) -> File:
    digest = pack.digest(found)
    if _missing(api, [digest]):
        api.call("PUT", f"/v1/blobs/{digest}", partial(pack.open_plain, found.place))
    progress.add(found.bytes)
    length = os.lstat(found.place).st_size
    return File(path=prefix + found.path, bytes=length, sha256=digest, executable=found.executable)


def _missing(api: Client, digests: list[str]) -> list[str]:
    missing: list[str] = api.post("/v1/blobs/missing", {"digests": digests})["missing"]
    return missing


def _file(found: pack.Found, prefix: str, content: bytes) -> File:
    return File(
        path=prefix + found.path,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        executable=found.executable,
    )


def _packed(digest: str, content: bytes) -> bytes:
    return bytes.fromhex(digest) + len(content).to_bytes(8, "little") + content


def _in_threads(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """What *jobs* return, in order; the first error ends it without starting the others."""
    if len(jobs) < 2:
        return [job() for job in jobs]
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# -- down --------------------------------------------------------------------------------------------
def tree(api: Client, digest: str) -> Tree:
    """The tree of that digest, verified and safe to be laid into a folder."""
    import json

    text = _read_blob(api, digest)
    if hashlib.sha256(text).hexdigest() != digest:
        raise Damaged(f"The list of files {digest[:12]} came back changed.")
    try:
        return checked(restore(Tree, json.loads(text)))
    except (ValueError, TypeError, BadInput) as error:
        raise Damaged(f"The list of files {digest[:12]} cannot be read: {error}.") from error


def _read_blob(api: Client, digest: str) -> bytes:
    with api.open("GET", f"/v1/blobs/{digest}") as response:
        return response.read()


def new_folder(target: Path, force: bool, *, erase: bool = False) -> Path:
    """*target* as a folder to write to; one that has something in it only with *force* (and then, with
    *erase*, emptied first). Raises `Refused`."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise Refused(f"{target} is there already and is no folder.", hint="Name another path.")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise Refused(f"{target} is there already and not empty.", hint="Name another path, or add -f.")
        if erase:
            shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    return target


def fetch(shell: Shell, files: Sequence[File], target: Path) -> None:
    """Lay *files* (of a checked tree) below *target*; each is verified before it takes its name."""
    into = Below(target)
    for file in files:
        into.parent(file.path)
    wanted: dict[str, list[File]] = {}
    for file in files:
        wanted.setdefault(file.sha256, []).append(file)
    firsts = [copies[0] for copies in wanted.values()]
    progress = Progress(shell, "Fetching", sum(file.bytes for file in firsts), len(firsts))
    api = shell.api
    _in_threads([partial(_fetch, api, batch, wanted, into, progress) for batch in _batches(firsts)])
    progress.end()


def _fetch(
    api: Client, batch: Sequence[File], wanted: dict[str, list[File]], into: Below, progress: Progress
) -> None:
    if batch[0].bytes > PACK_BYTES:
        with api.open("GET", f"/v1/blobs/{batch[0].sha256}") as response:
            into.lay(wanted[batch[0].sha256], response, batch[0].bytes, progress.add)
        return
    body = _asking(batch)
    with api.open("POST", "/v1/blobs/fetch", body, "application/json") as response:
        for _ in batch:
            digest, length = _head(response)
            if digest not in wanted or length != wanted[digest][0].bytes:
                raise Damaged("The platform sent a file that was not asked for.")
            into.lay(wanted[digest], response, length, progress.add)
        response.read()


def _asking(batch: Sequence[File]) -> bytes:
    import json

    return json.dumps({"digests": [file.sha256 for file in batch]}).encode()


def _head(response: IO[bytes]) -> tuple[str, int]:
    head = exactly(response, 40)
    return head[:32].hex(), int.from_bytes(head[32:], "little")
