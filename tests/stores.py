"""The MongoDB and S3 servers of the tests: where they are, and a corner of their own in them for each folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

_used: set[tuple[str, str]] = set()  # (url, cluster)


WHERE = {"mongo": ("mongodb", "NSML_TEST_MONGO", "NSML_STORE"), "s3": ("s3:", "NSML_TEST_S3", "NSML_BLOBS")}


def _found(server: str) -> str:
    scheme, *variables = WHERE[server]
    given = (os.environ.get(variable, "") for variable in variables)
    return next((value for value in given if value.startswith(scheme)), "")


def is_there(server: str) -> bool:
    return bool(_found(server))


def url(server: str) -> str:
    """The URL of *server*; skips the test when there is none, and fails it when NSML_REQUIRE names the server."""
    if found := _found(server):
        return found
    why = f"no {server} server: type 'eval \"$(./dev servers env)\"' after './dev servers up {server}'"
    if server in os.environ.get("NSML_REQUIRE", "").replace(",", " ").split():
        pytest.fail(why)
    pytest.skip(why)


def mongo_url() -> str:
    return url("mongo")


def s3_url() -> str:
    return url("s3")


def cluster(folder: Path, at: str) -> str:
    """The cluster that belongs to *folder*; `tidy` removes it."""
    name = "test-" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    _used.add((at, name))
    return name


def mongo_store(folder: Path) -> Any:
    from nsml.store.mongo import MongoStore

    return MongoStore(mongo_url(), cluster(folder, mongo_url()))


def mongo_streams(folder: Path) -> Any:
    from nsml.store.streams_mongo import MongoStreams

    return MongoStreams(mongo_url(), cluster(folder, mongo_url()))


def s3_blobs(folder: Path) -> Any:
    from nsml.store.blobs_s3 import S3Blobs

    return S3Blobs(s3_url(), cluster(folder, s3_url()))


def tidy() -> None:
    """Remove what the tests left on the servers."""
    for at, name in sorted(_used):
        if at.startswith("mongodb"):
            _tidy_mongo(at, name)
        else:
            _tidy_s3(at, name)
    _used.clear()


def _tidy_mongo(at: str, name: str) -> None:
    from pymongo import MongoClient

    with MongoClient(at, timeoutMS=5000) as client:
        database = client.get_default_database("nsml")
        for kind in ("documents", "counters", "meta", "chunks"):
            database.drop_collection(f"{name}.{kind}")


def _tidy_s3(at: str, name: str) -> None:
    import obstore

    from nsml.store.blobs_s3 import QUICK, S3Blobs

    connection = S3Blobs(at, name)._connection(QUICK)
    for batch in obstore.list(connection):
        obstore.delete(connection, [found["path"] for found in batch])
