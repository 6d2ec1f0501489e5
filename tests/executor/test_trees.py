"""Trees between blobs and folders."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import adapters
import orjson
import pytest

from nsml.core.errors import BadInput, Damaged, NotFound, TooLarge
from nsml.core.ports import Blobs
from nsml.core.tree import File, Tree
from nsml.executor import trees


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[Blobs]:
    async with adapters.BLOBS["file"](tmp_path) as opened:
        yield opened


class Remote:
    """Blobs that lie elsewhere: no path of theirs is known."""

    def __init__(self, blobs: Blobs) -> None:
        self.open, self.get_bytes = blobs.open, blobs.get_bytes


def fill(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "er" / "large").write_bytes(os.urandom(3 << 20))
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)


async def stored(blobs: Blobs, folder: Path) -> tuple[str, Tree]:
    return await trees.store(blobs, folder, trees.regular_files(folder, 100, 1 << 30))


@pytest.mark.parametrize("remote", [False, True])
async def test_a_folder_comes_back_as_it_was(blobs: Blobs, tmp_path: Path, remote: bool) -> None:
    fill(tmp_path / "there")
    digest, tree = await stored(blobs, tmp_path / "there")
    assert [file.path for file in tree.files] == ["a.txt", "deep/er/large", "run.sh"]
    source: Blobs = Remote(blobs) if remote else blobs  # type: ignore[assignment]
    await trees.lay(source, await trees.read(source, digest), tmp_path / "back")
    for file in tree.files:
        there, back = tmp_path / "there" / file.path, tmp_path / "back" / file.path
        assert there.read_bytes() == back.read_bytes()
        assert bool(back.stat().st_mode & stat.S_IXUSR) == file.executable
    (tmp_path / "back" / "a.txt").write_text("changed")
    assert b"".join([chunk async for chunk in blobs.open(tree.files[0].sha256)]) == b"a"


async def test_a_shared_tree_is_read_only(blobs: Blobs, tmp_path: Path) -> None:
    fill(tmp_path / "there")
    _, tree = await stored(blobs, tmp_path / "there")
    await trees.lay(blobs, tree, tmp_path / "shared", shared=True)
    for path in [tmp_path / "shared", *(tmp_path / "shared").rglob("*")]:
        assert not path.stat().st_mode & 0o222, path


async def test_the_same_folder_has_the_same_digest(blobs: Blobs, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    assert (await stored(blobs, tmp_path / "one"))[0] == (await stored(blobs, tmp_path / "other"))[0]


def test_only_what_a_tree_can_hold_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "plain").write_text("x")
    (folder / "inside").symlink_to("plain")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    (folder / "back\\slash").write_text("x")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_text("x")
    assert [path.name for path in trees.regular_files(folder, 100, 100)] == ["inside", "plain"]


def test_too_much_is_too_large(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(TooLarge):
        trees.regular_files(tmp_path, 2, 1 << 30)
    with pytest.raises(TooLarge):
        trees.regular_files(tmp_path, 100, 1000)


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../b", ""])
async def test_a_tree_that_would_leave_its_folder_is_refused(blobs: Blobs, path: str) -> None:
    content = await blobs.put_bytes(b"x")
    listed = {"files": [{"path": path, "bytes": 1, "sha256": content, "executable": False}]}
    with pytest.raises(BadInput):
        await trees.read(blobs, await blobs.put_bytes(orjson.dumps(listed)))


async def test_what_is_no_list_of_files_is_damaged(blobs: Blobs) -> None:
    with pytest.raises(Damaged):
        await trees.read(blobs, await blobs.put_bytes(b"\x00nonsense"))


async def test_content_that_is_gone_is_not_found(blobs: Blobs, tmp_path: Path) -> None:
    tree = Tree(files=(File(path="x", bytes=1, sha256="0" * 64),))
    with pytest.raises(NotFound):
        await trees.lay(blobs, tree, tmp_path / "laid")
