"""A folder becomes a tree of what is inside it, and of nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nsml.core.errors import BadInput, TooLarge
from nsml_cli import pack
from nsml_cli.ignore import Ignore


@pytest.fixture
def said() -> list[str]:
    return []


def names(root: Path, said: list[str], ignore: Ignore | None = None) -> list[str]:
    return [file.path for file in pack.walk(root, ignore, said.append)]


def test_files_come_by_path_with_their_size_and_mode(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.sh").write_text("#!/bin/sh\n")
    (tmp_path / "b" / "x.sh").chmod(0o755)
    (tmp_path / "a.py").write_text("1")
    found = pack.walk(tmp_path, None, said.append)
    assert [(f.path, f.bytes, f.executable) for f in found] == [("a.py", 1, False), ("b/x.sh", 10, True)]


def test_links_out_of_the_folder_are_skipped_with_a_word(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "in" / "leak").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "up").symlink_to("..")
    (tmp_path / "in" / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "in" / "nothing").symlink_to("gone")
    (tmp_path / "in" / "ok").write_text("1")
    assert names(tmp_path / "in", said) == ["ok"]
    assert len(said) == 4 and any("leak" in line for line in said)


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in-secret").mkdir()
    (tmp_path / "in-secret" / "s").write_text("s")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in-secret")
    assert names(tmp_path / "in", said) == []


def test_links_inside_are_what_they_point_to(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("12")
    (tmp_path / "file").symlink_to("d/x")
    (tmp_path / "folder").symlink_to("d")
    assert names(tmp_path, said) == ["d/x", "file", "folder/x"]


def test_a_link_to_a_folder_above_itself_ends(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("1")
    (tmp_path / "d" / "again").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "root").symlink_to(tmp_path)
    assert names(tmp_path, said) == ["d/x"]
    assert len(said) == 2


@pytest.mark.timeout(10)
def test_fifos_and_sockets_do_not_hang(tmp_path: Path, said: list[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        (tmp_path / "ok").write_text("1")
        assert names(tmp_path, said) == ["ok"]
    assert len(said) == 2


@pytest.mark.timeout(10)
def test_a_file_that_became_a_fifo_is_not_read(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "x").write_text("1")
    (found,) = pack.walk(tmp_path, None, said.append)
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    with pytest.raises(BadInput):
        pack.content(found)


def test_a_growing_file_is_taken_as_long_as_it_was(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "log").write_text("12345")
    (found,) = pack.walk(tmp_path, None, said.append)
    (tmp_path / "log").write_text("1234567890")
    assert pack.content(found) == b"12345"


def test_names_that_are_not_utf8_are_explained(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("1")
    with pytest.raises(BadInput, match="UTF-8"):
        names(tmp_path, said)


def test_virtual_environments_stay_at_home_whatever_their_name(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "my-env" / "lib").mkdir(parents=True)
    (tmp_path / "my-env" / "pyvenv.cfg").write_text("")
    (tmp_path / "my-env" / "lib" / "x.py").write_text("")
    (tmp_path / "main.py").write_text("")
    assert names(tmp_path, said, Ignore()) == ["main.py"]


def test_ignored_folders_are_not_even_looked_into(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "node_modules").mkdir(mode=0o000)
    (tmp_path / "main.py").write_text("")
    assert names(tmp_path, said, Ignore()) == ["main.py"]


def test_code_over_the_limits_is_refused_with_what_is_too_much(tmp_path: Path, said: list[str]) -> None:
    for number in range(5):
        (tmp_path / f"{number}.py").write_text("12345")
    with pytest.raises(TooLarge, match="total number of files cannot exceed 4"):
        pack.code(tmp_path, 4, 1 << 20, said.append)
    with pytest.raises(TooLarge, match="total size of files cannot exceed 20 B"):
        pack.code(tmp_path, 100, 20, said.append)
    (tmp_path / ".nsmlignore").write_text("3.py\n4.py\n.nsmlignore\n")
    assert [f.path for f in pack.code(tmp_path, 4, 20, said.append)] == ["0.py", "1.py", "2.py"]


def test_a_folder_far_over_the_limit_is_not_read_to_its_end(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number}.py").write_text("")
    looked = []
    monkeypatch.setattr(pack, "_check_name", looked.append)
    with pytest.raises(TooLarge):
        pack.code(tmp_path, 4, 20, said.append)
    assert len(looked) == 5


def test_large_code_is_a_warning(tmp_path: Path, said: list[str]) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(11 << 20)
    assert len(pack.code(tmp_path, 100, 50 << 20, said.append)) == 1
    assert "large" in said[0]


def test_the_same_content_gives_the_same_tree(tmp_path: Path, said: list[str]) -> None:
    from nsml.core.tree import File

    files = [File(path=p, bytes=1, sha256="a" * 64) for p in ("b", "a/c", "a.b")]
    assert pack.tree_of(files)[1] == pack.tree_of(reversed(files))[1]


def test_a_backslash_in_a_name_is_refused(tmp_path: Path) -> None:
    from nsml.core.tree import File

    with pytest.raises(BadInput):
        pack.tree_of([File(path="a\\b", bytes=1, sha256="a" * 64)])
