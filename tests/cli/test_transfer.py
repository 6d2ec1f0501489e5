"""Trees go up and come down whole, and nothing that comes leaves its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_platform import TOKEN, Answer, Call, FakePlatform

from nsml.core.errors import Damaged, NsmlError, Refused
from nsml_cli import pack, transfer
from nsml_cli.client import Client
from nsml_cli.profile import Where
from nsml_cli.shell import Shell


@pytest.fixture
def shell(platform: FakePlatform) -> Shell:
    made = Shell()
    made.__dict__["api"] = Client(Where(platform.base, TOKEN))
    return made


def write(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def read(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_small_folder_is_one_request(shell: Shell, platform: FakePlatform, tmp_path: Path) -> None:
    write(tmp_path, {"main.py": b"1", "a/b": b"2", "a/same": b"2"})
    _, digest = transfer.upload(shell, pack.walk(tmp_path, None, print))
    assert [call.path for call in platform.calls] == ["/v1/blobs"]
    assert digest in platform.blobs and len(platform.blobs) == 3


@pytest.mark.parametrize("size", [10, 3 << 20, 9 << 20])
def test_a_folder_comes_back_byte_for_byte(
    size: int, shell: Shell, platform: FakePlatform, tmp_path: Path
) -> None:
    files = {"a.bin": os.urandom(size), "b/c.bin": os.urandom(size), "b/twice.bin": b"", "b/empty": b""}
    source = write(tmp_path / "source", files)
    (source / "run.sh").write_text("#!")
    (source / "run.sh").chmod(0o755)
    _, digest = transfer.upload(shell, pack.walk(source, None, print))
    target = transfer.new_folder(tmp_path / "target", False)
    transfer.fetch(shell, transfer.tree(shell.api, digest).files, target)
    assert read(target) == read(source)
    assert os.access(target / "run.sh", os.X_OK) and not os.access(target / "b" / "empty", os.X_OK)


def test_what_is_there_already_is_not_sent_again(
    shell: Shell, platform: FakePlatform, tmp_path: Path
) -> None:
    write(tmp_path, {f"{i}": os.urandom(1000) for i in range(1500)})
    found = pack.walk(tmp_path, None, print)
    transfer.upload(shell, found)
    sent = sum(len(call.body) for call in platform.calls)
    (tmp_path / "new").write_bytes(b"new")
    platform.calls.clear()
    transfer.upload(shell, pack.walk(tmp_path, None, print))
    again = [call for call in platform.calls if call.path == "/v1/blobs"]
    assert sent > 1_500_000
    assert [len(call.body) for call in again][:1] == [43] and len(again) == 2  # the new file, the new tree


@pytest.mark.parametrize("path", ["../up", "/abs", "a/../../up", "a//b", "..", "a\\b"])
def test_a_tree_that_leads_out_is_refused(path: str, shell: Shell, platform: FakePlatform) -> None:
    with pytest.raises(Damaged):
        transfer.tree(shell.api, platform.add_tree({path: b"x"}))


def test_content_that_is_not_what_was_asked_for_is_refused(
    shell: Shell, platform: FakePlatform, tmp_path: Path
) -> None:
    digest = platform.add_tree({"a": b"good"})
    tree = transfer.tree(shell.api, digest)
    platform.blobs[tree.files[0].sha256] = b"evil"
    with pytest.raises(Damaged, match="digest"):
        transfer.fetch(shell, tree.files, transfer.new_folder(tmp_path / "t", False))
    assert read(tmp_path / "t") == {}
    platform.blobs[digest] = b"{}"
    with pytest.raises(Damaged):
        transfer.tree(shell.api, digest)


def test_files_are_never_written_through_a_link(shell: Shell, platform: FakePlatform, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("mine")
    target = write(tmp_path / "t", {"there": b""})
    (target / "folder").symlink_to(tmp_path / "outside")
    (target / "file").symlink_to(tmp_path / "outside" / "x")
    tree = transfer.tree(shell.api, platform.add_tree({"file": b"theirs", "copy": b"theirs"}))
    transfer.fetch(shell, tree.files, target)
    assert (target / "file").read_bytes() == b"theirs" and not (target / "file").is_symlink()
    tree = transfer.tree(shell.api, platform.add_tree({"folder/x": b"theirs"}))
    with pytest.raises(Refused):
        transfer.fetch(shell, tree.files, target)
    assert (tmp_path / "outside" / "x").read_text() == "mine"


def test_a_copy_replaces_a_link_too(shell: Shell, platform: FakePlatform, tmp_path: Path) -> None:
    target = write(tmp_path / "t", {"mine": b"mine"})
    (target / "b").symlink_to(target / "mine")
    tree = transfer.tree(shell.api, platform.add_tree({"a": b"same", "b": b"same"}))
    transfer.fetch(shell, tree.files, target)
    assert read(target) == {"mine": b"mine", "a": b"same", "b": b"same"} and not (target / "b").is_symlink()


def test_a_folder_with_something_in_it_needs_force(tmp_path: Path) -> None:
    target = write(tmp_path / "t", {"mine": b"1"})
    with pytest.raises(Refused):
        transfer.new_folder(target, False)
    assert read(transfer.new_folder(target, True)) == {"mine": b"1"}
    assert read(transfer.new_folder(target, True, erase=True)) == {}
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(target)
    for wrong in ("file", "link"):
        with pytest.raises(Refused):
            transfer.new_folder(tmp_path / wrong, True, erase=True)
    assert transfer.new_folder(tmp_path / "deep" / "er", False).is_dir()


def test_a_pack_that_stops_short_is_said(shell: Shell, platform: FakePlatform, tmp_path: Path) -> None:
    tree = transfer.tree(shell.api, platform.add_tree({"a": b"12345"}))
    whole = platform.answer

    def short(call: Call) -> Answer:
        return Answer(chunks=[whole(call).chunks[0][:20]]) if "fetch" in call.path else whole(call)  # type: ignore[index]

    platform.answer = short  # type: ignore[method-assign]
    with pytest.raises(NsmlError, match="broke"):
        transfer.fetch(shell, tree.files, transfer.new_folder(tmp_path / "t", False))
