"""Trees: what may be laid into a folder, and what would leave it."""

from __future__ import annotations

import pytest

from nsml.core.errors import BadInput
from nsml.core.plain import plain, restore
from nsml.core.tree import LONGEST_PATH, File, Tree, checked

SHA = "a" * 64


def a_tree(*paths: str) -> Tree:
    return Tree(files=tuple(File(path=path, bytes=1, sha256=SHA) for path in paths))


@pytest.mark.parametrize("path", ["main.py", "a/b/c", "a b", ".hidden", "…/ü", "a..b", "-rf"])
def test_an_honest_path_is_taken(path: str) -> None:
    assert checked(a_tree(path)).bytes == 1


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../x",
        "/etc/passwd",
        "",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "..",
        "a\0b",
        "a\\b",
        "x" * 256,
        "a/" * 600 + "b",
    ],
)
def test_a_path_that_leaves_the_folder_or_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(BadInput):
        checked(a_tree(path))


def test_a_long_path_is_refused_by_its_bytes() -> None:
    assert checked(a_tree("/".join(["x" * 200] * 5)))
    with pytest.raises(BadInput):
        checked(a_tree("/".join(["ü" * 100] * (LONGEST_PATH // 200 + 1))))


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_nothing_is_twice_or_both_file_and_folder(paths: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"twice|both a file and a folder"):
        checked(a_tree(*paths))


def test_sizes_and_digests_must_be_possible() -> None:
    with pytest.raises(BadInput, match="negative"):
        checked(Tree(files=(File(path="a", bytes=-1, sha256=SHA),)))
    with pytest.raises(BadInput, match="digest"):
        checked(Tree(files=(File(path="a", bytes=1, sha256="../../x"),)))


def test_control_characters_of_a_path_do_not_reach_the_terminal() -> None:
    with pytest.raises(BadInput) as refused:
        checked(a_tree("../\x1b[31m"))
    assert "\x1b" not in refused.value.message


def test_a_tree_survives_its_plain_form() -> None:
    tree = a_tree("a", "b/c")
    assert restore(Tree, plain(tree)) == tree
