"""The datasets of a session: fetched once per node, shown read-only where code looks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from nsml.core.catalogue import DatasetRef
from nsml.core.ports import Blobs, Mount
from nsml.executor import trees
from nsml.executor.shelf import Facts, Shelf

MOST_LINKS = 10_000  # entries linked beside `train`; a flat folder of a million images is seen below it alone


class Datasets:
    """The node's cache of dataset trees."""

    def __init__(self, shelf: Shelf, blobs: Blobs) -> None:
        self._shelf = shelf
        self._blobs = blobs

    def has(self, digest: str) -> bool:
        return self._shelf.facts(_name(digest)) is not None

    async def hold(self, digest: str) -> Path:
        """The folder of the tree *digest*, until `release`. Raises `NotFound`."""

        async def fetch(path: Path) -> Facts:
            tree = await trees.read(self._blobs, digest)
            await trees.lay(self._blobs, tree, path, shared=True)
            return {"bytes": tree.bytes, "files": len(tree.files)}

        return await self._shelf.hold(_name(digest), fetch)

    def release(self, digest: str) -> None:
        self._shelf.release(_name(digest))


def _name(digest: str) -> str:
    return f"trees/{digest}"


async def show(
    datasets: tuple[DatasetRef, ...], data: Path, hold: Callable[[str], Awaitable[Path]]
) -> tuple[Mount, ...]:
    """Make `data/NAME` for each of *datasets*; the mounts that fill them."""
    mounts: list[Mount] = []
    for dataset in datasets:
        tree = await hold(dataset.tree)
        mounts += await asyncio.to_thread(_show, tree, data / dataset.name)
    return tuple(mounts)


def _show(tree: Path, view: Path) -> list[Mount]:
    """What was pushed lies below `train/`, and each of its entries is linked beside it as well: some code
    looks for `DATASET_PATH/train/x`, older code for `DATASET_PATH/x`. An entry called `train` wins."""
    view.mkdir(parents=True, exist_ok=True)
    if not (tree / "train").is_dir():
        mounts, content = [Mount(source=str(tree), target=str(view / "train"))], tree
    else:
        mounts = [Mount(source=str(entry), target=str(view / entry.name)) for entry in sorted(tree.iterdir())]
        content = tree / "train"
    taken = {Path(mount.target).name for mount in mounts}
    names = sorted({entry.name for entry in content.iterdir()} - taken)
    if len(names) <= MOST_LINKS:
        for name in names:
            link = view / name
            if not link.is_symlink():
                link.symlink_to(Path("train", name))
    return mounts
