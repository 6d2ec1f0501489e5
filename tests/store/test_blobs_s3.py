"""S3Blobs when the server, or the way to it, is not well; and what S3 does otherwise than a folder."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
import stores
from fakes import until
from proxies import Proxy

from nsml.core.errors import BadInput, NotFound, Unavailable
from nsml.executor import trees
from nsml.store.blobs_s3 import PART, QUICK, USED, S3Blobs

MB = 1 << 20


async def pieces(data: bytes, size: int = 700_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def endpoint() -> str:
    found = S3Blobs(stores.s3_url()).endpoint
    if not found.startswith("http://127.0.0.1:"):
        pytest.skip("the S3 server is not on this machine: no proxy can be put before it")
    return found


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy(urlsplit(endpoint()).port or 80) as opened:
        yield opened


@pytest.fixture
async def direct(tmp_path: Path) -> AsyncIterator[S3Blobs]:
    """The blobs as the server has them."""
    async with stores.s3_blobs(tmp_path) as opened:
        yield opened


@pytest.fixture
async def blobs(direct: S3Blobs, proxy: Proxy, tmp_path: Path) -> AsyncIterator[S3Blobs]:
    """The same blobs by way of the proxy."""
    at = stores.s3_url()
    through = at.replace(endpoint(), f"http://127.0.0.1:{proxy.port}")
    async with S3Blobs(through, stores.cluster(tmp_path, at)) as opened:
        yield opened


async def names(blobs: S3Blobs) -> list[str]:
    """Everything that lies below the cluster."""
    return [str(found["path"]) async for batch in obstore.list(blobs._opened()) for found in batch]


async def test_a_large_blob_is_whole_whether_its_digest_is_known_or_not(direct):
    data = random.Random(1).randbytes(2 * PART + 12_345)
    for digest in (sha(data), ""):
        assert await direct.put(pieces(data), digest) == sha(data)
        assert await direct.get_bytes(sha(data)) == data
        assert sorted(await names(direct)) == [f"{sha(data)[:2]}/{sha(data)}", "tmp/now"]
        await direct.drop(sha(data))


async def test_a_large_blob_of_another_digest_is_never_visible(direct):
    data = bytes(PART + 5 * MB)
    with pytest.raises(BadInput):
        await direct.put(pieces(data), sha(b"other"))
    assert await names(direct) == ["tmp/now"]


async def test_a_large_put_that_is_cut_off_leaves_no_parts_on_the_server(direct):
    sent = asyncio.Event()

    async def cut_off() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(PART)
        sent.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(direct.put(cut_off(), sha(b"x")))
    await sent.wait()
    started = time.monotonic()
    put.cancel()
    await asyncio.wait([put])
    assert put.cancelled() and time.monotonic() - started < 5
    assert await names(direct) == ["tmp/now"]


async def test_what_was_asked_for_counts_as_stored_anew(direct):
    digest = await direct.put_bytes(b"abc")
    await direct.put_bytes(b"other")
    ((_, first, _),) = [found async for found in direct.everything() if found[0] == digest]
    later = None

    async def dated_anew() -> bool:
        nonlocal later
        assert not await direct.missing([digest])
        ((_, later, size),) = [found async for found in direct.everything() if found[0] == digest]
        assert size == 3
        return later > first

    await until(dated_anew, timeout=10)  # the server counts in seconds
    await direct.drop(digest)
    assert not [name for name in await names(direct) if name.startswith(USED)]


async def test_a_server_that_is_away_is_unavailable_and_found_again(blobs, proxy):
    digest = await blobs.put_bytes(b"abc")
    proxy.be("drop")
    for call in (
        blobs.get_bytes(digest),
        blobs.put_bytes(b"x"),
        blobs.put(pieces(bytes(PART + 1))),
        blobs.missing([digest] * 50),
        blobs.ping(),
    ):
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await call
        assert time.monotonic() - started < 6
    proxy.be("pass")
    assert await blobs.get_bytes(digest) == b"abc"


async def test_a_question_to_a_silent_server_ends_within_six_seconds(blobs, proxy):
    proxy.be("hang")
    started = time.monotonic()
    calls = (blobs.missing([sha(bytes([n])) for n in range(100)]), blobs.ping(), blobs.drop(sha(b"")))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert time.monotonic() - started < 6


async def test_a_put_whose_answer_is_lost_is_there_once_it_is_repeated(blobs, direct, proxy):
    for number in range(5):
        data = bytes([number]) * 100_000
        proxy.be("lose one")
        try:
            await blobs.put(pieces(data), sha(data))
        except Unavailable:
            await blobs.put(pieces(data), sha(data))
        assert await direct.get_bytes(sha(data)) == data


async def test_two_clusters_in_one_bucket_do_not_meet(direct, tmp_path):
    digest = await direct.put_bytes(b"abc")
    async with stores.s3_blobs(tmp_path / "other") as other:
        assert list(await other.missing([digest])) == [digest]
        with pytest.raises(NotFound):
            await other.get_bytes(digest)


async def test_a_tree_is_laid_down_from_the_server(direct, tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "main.py").write_bytes(b"print()\n")
    digest, tree = await trees.store(direct, folder, [folder / "main.py"])
    assert await trees.read(direct, digest) == tree
    await trees.lay(direct, tree, tmp_path / "laid", shared=True)
    assert (tmp_path / "laid" / "main.py").read_bytes() == b"print()\n"


async def test_wrong_keys_are_said_to_be_wrong_and_are_not_told(monkeypatch):
    at = stores.s3_url()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(Unavailable, match="turns the platform away") as refused:
        await S3Blobs(at).__aenter__()
    assert "not-the-secret" not in refused.value.message + str(refused.value.__cause__)


async def test_a_bucket_is_made_where_there_is_none():
    name = "nsml-test-made"
    at = stores.s3_url().replace("s3://" + S3Blobs(stores.s3_url()).bucket, f"s3://{name}", 1)
    for _ in range(2):
        async with S3Blobs(at, "once") as blobs:
            assert await names(blobs) == ["tmp/now"]
            last = (
                blobs._connection(QUICK),
                blobs._connection(QUICK, prefix=None, virtual_hosted_style_request=True),
            )
    obstore.delete(last[0], "tmp/now")
    forget = urllib.request.Request(
        obstore.sign(last[1], "DELETE", name, timedelta(minutes=1)), method="DELETE"
    )
    await asyncio.to_thread(urllib.request.urlopen, forget)  # the bucket, named as it was made
    with pytest.raises(Unavailable, match="is not there"), blobs._driver():
        obstore.list_with_delimiter(last[0])


@pytest.mark.parametrize(
    "url", ["s3:", "s3://", "s3://key:secret@bucket", "s3://b?acces=x", "http://b", "s3:bucket"]
)
def test_a_url_that_is_none_is_refused_without_its_keys(url):
    with pytest.raises(BadInput) as refused:
        S3Blobs(url)
    assert "secret" not in refused.value.message
