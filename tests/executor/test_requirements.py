"""What code asks to be installed."""

from __future__ import annotations

import pytest

from nsml.executor.requirements import image_line, satisfied, wanted


@pytest.mark.parametrize("line", ["#nsml: some/image:1", "# nsml: some/image:1", "#nsml:some/image:1"])
def test_the_image_line_is_read_with_and_without_blanks(line: str) -> None:
    assert image_line(f"{line}\nfrom distutils.core import setup\n") == "some/image:1"


def test_an_image_line_further_down_is_a_comment_like_any_other() -> None:
    assert image_line("import x\n#nsml: some/image:1\n") == ""


def test_setup_py_names_the_image_before_requirements_txt() -> None:
    files = {"setup.py": "#nsml: one\n", "requirements.txt": "#nsml: two\n"}
    assert wanted(files).image == "one"


def test_the_command_line_names_the_image_before_everything() -> None:
    assert wanted({"setup.py": "#nsml: one\n"}, "mine").image == "mine"


def test_requirements_are_told_from_options_and_comments() -> None:
    text = "#nsml: x\n\n--index-url https://e.org/simple\nnumpy==1.0  # why\ntorch \\\n  >=2\n-e ./here\n"
    want = wanted({"requirements.txt": text})
    assert want.requirements == ("numpy==1.0", "torch    >=2", "-e ./here")
    assert want.options == ("--index-url https://e.org/simple",)


def test_included_files_count_once_even_in_circles() -> None:
    files = {"requirements.txt": "-r more.txt\na\n", "more.txt": "-r requirements.txt\nb\n"}
    assert set(wanted(files).requirements) == {"a", "b"}


def test_a_hash_inside_an_address_is_no_comment() -> None:
    line = "pkg @ https://e.org/p.zip#egg=pkg"
    assert wanted({"requirements.txt": line}).requirements == (line,)


def test_the_same_wishes_share_an_environment_and_others_do_not() -> None:
    one, same, other = (wanted({"requirements.txt": text}) for text in ("a\nb", "a \n\nb  # x", "a\nc"))
    assert one.digest("python") == same.digest("python")
    assert one.digest("python") != other.digest("python")
    assert one.digest("python") != one.digest("another python")


def test_an_image_line_alone_asks_for_no_environment() -> None:
    assert wanted({"requirements.txt": "#nsml: x\n"}).is_empty


def test_what_any_version_satisfies_need_not_be_installed_again() -> None:
    installed = {"torch": "2.1", "my-package": "1.0"}
    assert satisfied(["torch", "My_Package", "torch==1.0", "absent"], installed) == ("torch", "My_Package")


def test_a_setup_py_of_comments_asks_for_nothing() -> None:
    assert wanted({"setup.py": "#nsml: x\n\n# more\n"}).is_empty
