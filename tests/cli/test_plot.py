"""A curve drawn as text."""

from __future__ import annotations

from typing import Any

import pytest

from nsml_cli import plot


def series(values: list[Any], steps: list[Any] | None = None) -> dict[str, Any]:
    return {"name": "train/loss", "steps": steps or list(range(len(values))), "values": values, "times": []}


def test_a_picture_has_its_name_its_rows_and_its_axes() -> None:
    lines = plot.picture(series([1.0, 0.5, 0.25]), 60, 8)
    assert lines[0].startswith("train/loss") and "0.25" in lines[0]
    assert len(lines) == 1 + 8 + 2
    assert lines[1].lstrip().startswith("1 ") and lines[8].lstrip().startswith("0.25")
    assert lines[-1].split() == ["0", "step", "2"]
    assert all(len(line) <= 60 for line in lines)


def test_a_falling_curve_falls() -> None:
    rows = plot.draw([(float(x), -float(x)) for x in range(10)], 10, 10)
    assert rows[0][0] != " " and rows[-1][-1] != " "
    assert rows[0][-1] == " " and rows[-1][0] == " "


@pytest.mark.parametrize(
    "values",
    [[1.0], [2.0, 2.0], ["NaN", 1.0, "Infinity", 2.0], [1e308, -1e308], [5e-324, 0.0], [[1, 2], 3.0], [0, 1 << 60]],
)  # fmt: skip
def test_odd_values_are_drawn_all_the_same(values: list[Any]) -> None:
    assert len(plot.picture(series(values), 40, 8)) == 11


def test_a_curve_without_numbers_says_so() -> None:
    (line,) = plot.picture(series(["NaN", "NaN"]), 60)
    assert "no number" in line


@pytest.mark.timeout(20)
def test_many_points_are_drawn_quickly() -> None:
    many = 200_000
    assert plot.picture(series([float(x % 97) for x in range(many)]), 100)


def test_control_characters_in_a_name_do_not_reach_the_terminal() -> None:
    lines = plot.picture({**series([1.0]), "name": "a\x1b]0;x\x07\nb"}, 60)
    assert all(c.isprintable() for line in lines for c in line)
