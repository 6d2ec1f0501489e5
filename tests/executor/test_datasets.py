"""Datasets on a node: fetched once, shown where code looks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import adapters
import pytest

from nsml.core.catalogue import DatasetRef
from nsml.core.ports import Blobs
from nsml.executor import trees
from nsml.executor.datasets import Datasets, show
from nsml.executor.shelf import Shelf


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[Blobs]:
    async with adapters.BLOBS["file"](tmp_path) as opened:
        yield opened


async def pushed(blobs: Blobs, folder: Path, *paths: str, text: str = "x") -> DatasetRef:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    digest, tree = await trees.store(blobs, folder, trees.regular_files(folder, 100, 1 << 30))
    return DatasetRef(name="digits", owner="alice", version=1, tree=digest, bytes=tree.bytes)


def on(folder: Path, blobs: Blobs, limit: int = 1 << 30) -> Datasets:
    return Datasets(Shelf(folder / "node", limit), blobs)


async def test_what_was_pushed_is_seen_below_train_and_beside_it(blobs: Blobs, tmp_path: Path) -> None:
    dataset = await pushed(blobs, tmp_path / "push", "train/images/1.png", "train/labels.csv")
    mounts = await show((dataset,), tmp_path / "data", on(tmp_path, blobs).hold)
    view = tmp_path / "data" / "digits"
    (mount,) = mounts
    assert (mount.target, Path(mount.source).name) == (f"{view}/train", "train")
    (view / "train").symlink_to(mount.source)  # as the executor does
    for path in ("train/labels.csv", "labels.csv", "images/1.png"):
        assert (view / path).read_text() == "x"


async def test_a_tree_without_train_is_shown_below_it(blobs: Blobs, tmp_path: Path) -> None:
    dataset = await pushed(blobs, tmp_path / "push", "labels.csv")
    (mount,) = await show((dataset,), tmp_path / "data", on(tmp_path, blobs).hold)
    assert mount.target == f"{tmp_path}/data/digits/train"
    assert (tmp_path / "data" / "digits" / "labels.csv").is_symlink()


async def test_an_entry_called_train_wins(blobs: Blobs, tmp_path: Path) -> None:
    dataset = await pushed(blobs, tmp_path / "push", "train/train/x", "train/y")
    (mount,) = await show((dataset,), tmp_path / "data", on(tmp_path, blobs).hold)
    assert not (tmp_path / "data" / "digits" / "train").is_symlink()
    assert mount.target.endswith("/train")


async def test_sessions_that_want_it_at_once_fetch_it_once(blobs: Blobs, tmp_path: Path) -> None:
    dataset = await pushed(blobs, tmp_path / "push", "train/x")
    reads = 0

    class Counting:
        path = staticmethod(blobs.path)  # type: ignore[attr-defined]

        async def get_bytes(self, digest: str, limit: int = 0) -> bytes:
            nonlocal reads
            reads += 1
            return await blobs.get_bytes(digest, limit)

    datasets = on(tmp_path, Counting())  # type: ignore[arg-type]
    paths = await asyncio.gather(*(datasets.hold(dataset.tree) for _ in range(5)))
    assert len(set(paths)) == 1 and reads == 1


async def test_the_least_recently_used_goes_first_and_never_one_in_use(blobs: Blobs, tmp_path: Path) -> None:
    sets = [await pushed(blobs, tmp_path / f"p{i}", "train/x", text=str(i) * 1000) for i in range(4)]
    datasets = on(tmp_path, blobs, limit=2500)
    await datasets.hold(sets[0].tree)
    for dataset in sets[1:]:
        await datasets.hold(dataset.tree)
        datasets.release(dataset.tree)
    assert [datasets.has(dataset.tree) for dataset in sets] == [True, False, False, True]


async def test_one_that_was_half_fetched_is_fetched_anew(blobs: Blobs, tmp_path: Path) -> None:
    dataset = await pushed(blobs, tmp_path / "push", "train/x", "train/y")
    half = tmp_path / "node" / "trees" / dataset.tree / "train"
    half.mkdir(parents=True)
    (half / "x").write_text("half")
    path = await on(tmp_path, blobs).hold(dataset.tree)
    assert (path / "train" / "x").read_text() == "x" and (path / "train" / "y").exists()


async def test_a_restart_finds_what_is_there(blobs: Blobs, tmp_path: Path) -> None:
    dataset = await pushed(blobs, tmp_path / "push", "train/x")
    await on(tmp_path, blobs).hold(dataset.tree)
    shelf = Shelf(tmp_path / "node", 1 << 30)
    await shelf.look()
    assert shelf.names("trees") == [dataset.tree]
