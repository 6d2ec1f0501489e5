"""Content in and out: byte for byte, or not at all."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from nsml.api.desk import Doors


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(*blobs: bytes) -> bytes:
    return b"".join(hashlib.sha256(b).digest() + struct.pack("<Q", len(b)) + b for b in blobs)


SOME = [b"", b"a", b"x" * 70_000, bytes(range(256)) * 5_000, b"large" * 2_000_000]


async def test_a_pack_comes_back_as_it_went(office: Any) -> None:
    assert await office.call("POST", "/v1/blobs", data=pack(*SOME)) == (200, {"stored": len(SOME)})
    wanted = [digest(b) for b in SOME]
    assert await office.call("POST", "/v1/blobs/missing", json={"digests": wanted}) == (200, {"missing": []})
    async with office.http.post(office.base + "/v1/blobs/fetch", json={"digests": wanted}) as response:
        assert response.status == 200 and await response.read() == pack(*SOME)


async def test_an_empty_pack_stores_nothing(office: Any) -> None:
    assert await office.call("POST", "/v1/blobs", data=b"") == (200, {"stored": 0})


async def test_one_blob_comes_back_as_it_went(office: Any) -> None:
    for data in SOME:
        status, answer = await office.call("PUT", f"/v1/blobs/{digest(data)}", data=data)
        assert (status, answer) == (201, {"digest": digest(data)})
        async with office.http.get(f"{office.base}/v1/blobs/{digest(data)}") as response:
            assert response.status == 200 and await response.read() == data


async def test_which_are_missing_is_said_in_order(office: Any) -> None:
    await office.blobs.put_bytes(b"there")
    asked = {"digests": ["1" * 64, digest(b"there"), "2" * 64]}
    assert (await office.call("POST", "/v1/blobs/missing", json=asked))[1] == {
        "missing": ["1" * 64, "2" * 64]
    }


@pytest.mark.parametrize("data", [b"short", b"x" * 300_000])
async def test_content_under_a_wrong_digest_is_refused_and_not_kept(office: Any, data: bytes) -> None:
    wrong = "ab" * 32
    status, answer = await office.call("PUT", f"/v1/blobs/{wrong}", data=data)
    assert status == 400 and wrong in answer["error"]["message"]
    forged = bytes.fromhex(wrong) + struct.pack("<Q", len(data)) + data
    assert (await office.call("POST", "/v1/blobs", data=forged))[0] == 400
    assert list(await office.blobs.missing([wrong, digest(data)])) == [wrong, digest(data)]


@pytest.mark.parametrize("cut", [1, 31, 39, 40, 41, 100, 300_000])
async def test_a_pack_that_breaks_off_is_refused_but_keeps_what_came_whole(office: Any, cut: int) -> None:
    first, second = b"first", b"y" * 400_000
    whole = pack(first, second)
    status, answer = await office.call("POST", "/v1/blobs", data=whole[: len(pack(first)) + cut])
    assert status == 400 and "ends in the middle" in answer["error"]["message"]
    assert list(await office.blobs.missing([digest(first), digest(second)])) == [digest(second)]


async def test_a_pack_that_lies_about_a_length_is_refused(office: Any) -> None:
    lie = hashlib.sha256(b"x").digest() + struct.pack("<Q", 1 << 63) + b"x"
    assert (await office.call("POST", "/v1/blobs", data=lie))[0] == 400


@pytest.mark.parametrize(
    "name", ["..", "x", "0" * 63, "0" * 65, "G" * 64, "%2e%2e%2fetc%2fpasswd", "0" * 63 + "%00"]
)
async def test_what_is_no_digest_is_refused(office: Any, name: str) -> None:
    for method in ("GET", "PUT"):
        assert (await office.call(method, f"/v1/blobs/{name}", data=b""))[0] in (400, 404, 405)
    status, _ = await office.call("POST", "/v1/blobs/fetch", json={"digests": [name]})
    assert status == 400


async def test_what_is_not_there_is_404_before_anything_is_sent(office: Any) -> None:
    assert (await office.call("GET", "/v1/blobs/" + "1" * 64))[0] == 404
    await office.blobs.put_bytes(b"there")
    asked = {"digests": [digest(b"there"), "1" * 64]}
    assert (await office.call("POST", "/v1/blobs/fetch", json=asked))[0] == 404


class TestLimits:
    @pytest.fixture
    def doors(self) -> Doors:
        return Doors(upload=100_000)

    async def test_an_upload_over_the_limit_is_413_however_it_is_sent(self, office: Any) -> None:
        data = b"z" * 200_000

        async def chunks() -> Any:
            for at in range(0, len(data), 10_000):
                yield data[at : at + 10_000]

        for method, path in (("PUT", f"/v1/blobs/{digest(data)}"), ("POST", "/v1/blobs")):
            for body in (data, chunks()):
                assert (await office.call(method, path, data=body))[0] in (413, 400)
        assert list(await office.blobs.missing([digest(data)])) == [digest(data)]
