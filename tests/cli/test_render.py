"""Tables that people read and awk splits."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml_cli import render


@given(st.lists(st.lists(st.text(max_size=20), min_size=3, max_size=3), max_size=6))
def test_every_row_splits_into_as_many_columns_as_the_header(rows: list[list[str]]) -> None:
    lines = render.table(["Name", "# of Models", "Status"], rows)
    assert len(lines) == 2 + len(rows)
    assert {len(re.split(r"  +", line.strip())) for line in lines} == {3}
    assert set(lines[1]) <= {"-", " "}
    assert all(character.isprintable() for line in lines for character in line)


def test_columns_are_two_spaces_apart_and_aligned() -> None:
    assert render.table(["A", "Long"], [["wide one", "x"], ["", "y  z\n"]]) == [
        "A         Long",
        "--------  ----",
        "wide one  x",
        "-         y z",
    ]


def test_wide_letters_take_two_columns() -> None:
    first, second = render.table(["A", "B"], [["한글", "x"], ["abcd", "y"]])[2:]
    assert first == "한글  x" and second == "abcd  y"


def test_a_table_is_cut_to_the_terminal_but_never_its_names() -> None:
    lines = render.table(["Name", "Args"], [["alice/mnist/12", "x" * 100]], 40)
    assert all(render.columns(line) <= 40 for line in lines)
    assert "alice/mnist/12" in lines[2] and lines[2].endswith("…")


def test_escape_codes_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in render.cell("a\x1b[31mred\x1b[0m")


def test_the_state_is_never_cut() -> None:
    lines = render.table(["Name", "Status", "Summary"], [["alice/mnist/12", "completed", "x" * 100]], 20)
    assert "completed" in lines[2] and lines[2].endswith("…")


def test_tabs_and_newlines_are_spaces_in_a_cell() -> None:
    assert render.cell("a\tb\n c") == "a b c"


def test_csv_is_for_programs() -> None:
    rows = [{"a": "x, y", "b": None, "c": 0.12345}, {"a": "two\nlines", "b": {"k": 1}, "c": True}]
    assert render.csv_lines(rows) == ["a,b,c", '"x, y",,0.12345', 'two lines,"{""k"": 1}",true']
    assert render.csv_lines([]) == []


def test_yaml_is_a_block_for_each_row() -> None:
    rows = [{"a": "x: y", "b": None}, {"a": [1], "b": True}]
    assert render.yaml_lines(rows) == ['- "a": "x: y"', '  "b": null', '- "a": [1]', '  "b": true']
    assert render.yaml_lines([]) == ["[]"]


def test_a_full_summary_has_all_digits_but_whole_numbers_no_point() -> None:
    assert (
        render.summary({"step": 5.0, "loss": 1 / 3, "n": "NaN"}, full=True) == f"step=5, loss={1 / 3}, n=NaN"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2, "0.2"), (5 / 3, "1.667"), (1.0, "1"), (2, "2"), (0.0004, "0.0004"), (1.23456e-7, "1.23e-07"), (0.0, "0"),
     (-1.5, "-1.5"), ("NaN", "NaN"), (True, "True"), (123456.7891, "123456.789")],
)  # fmt: skip
def test_numbers_have_three_decimals_at_most(value: object, text: str) -> None:
    assert render.number(value) == text


def test_a_summary_before_the_first_report_says_so() -> None:
    assert render.summary({}) == "Not created yet"
    assert render.summary({"train/loss": 0.2, "third": 5 / 3}) == "train/loss=0.2, third=1.667"
    assert render.summary({"third": 5 / 3}, full=True) == f"third={5 / 3}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (5, "5 seconds ago"), (60, "1 minute ago"), (36 * 60, "36 minutes ago"),
     (4 * 3600, "4 hours ago"), (61 * 86400, "2 months ago"), (-10, "just now")],
)  # fmt: skip
def test_times_are_relative(seconds: float, text: str) -> None:
    assert render.ago("2026-01-31T12:00:00+00:00", now=1769860800.0 + seconds) == text


def test_no_time_is_a_dash() -> None:
    assert render.ago(None) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.079, "0.1 s"), (4, "4 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min"), (None, "-")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


def test_a_long_text_of_wide_letters_is_cut_at_once() -> None:
    began = time.monotonic()
    assert render.fit("한" * 200_000, 11) == "한" * 5 + "…"
    assert time.monotonic() - began < 2
