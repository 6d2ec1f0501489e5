"""Curves as text: braille dots with axes, so that a terminal shows what a session learned."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from nsml.core.ids import printable
from nsml_cli.render import fit, number

LABEL = 10  # columns of the value axis
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille letter, by row and column
NARROWEST = 20

Point = tuple[float, float]


def picture(series: Mapping[str, Any], width: int, height: int = 10) -> list[str]:
    """The lines of one curve: title, *height* rows with the value axis, the step axis below."""
    points = finite(series["steps"], series["values"])
    name = printable(str(series["name"])).replace("\n", " ")
    if not points:
        return [fit(f"{name}  no number among {len(series['steps'])} points", width)]
    low, high = min(y for _, y in points), max(y for _, y in points)
    title = f"{name}  last {_short(points[-1][1])}, least {_short(low)}, most {_short(high)}"
    columns = max(NARROWEST, width - LABEL - 2)
    rows = draw(points, columns, height)
    labels = {0: _short(high), height - 1: _short(low), (height - 1) // 2: _short((low + high) / 2)}
    if low == high:
        labels = {(height - 1) // 2: _short(low)}
    lines = [f"{labels.get(at, ''):>{LABEL}} ┤{row}".rstrip() for at, row in enumerate(rows)]
    return [fit(title, width), *_plainer([*lines, *_step_axis(points, columns)])]


def finite(steps: Sequence[Any], values: Sequence[Any]) -> list[Point]:
    """The points that can be drawn: NaN, infinities and vectors cannot."""
    points = []
    for step, value in zip(steps, values, strict=False):
        if isinstance(value, int | float) and isinstance(step, int | float):
            x, y = float(step), float(value)
            if math.isfinite(x) and math.isfinite(y):
                points.append((x, y))
    return points


def draw(points: Sequence[Point], columns: int, rows: int) -> list[str]:
    """The points joined by lines, as rows of braille letters."""
    canvas = [[0] * columns for _ in range(rows)]
    for x, y in _joined(_scaled(points, columns * 2 - 1, rows * 4 - 1)):
        canvas[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    return ["".join(chr(0x2800 + dots) if dots else " " for dots in row) for row in canvas]


def _scaled(points: Sequence[Point], right: int, bottom: int) -> list[tuple[int, int]]:
    """The points in dots, the largest value at the top; the middle where a range is empty."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, width = (
        min(xs),
        (max(xs) / 2 - min(xs) / 2) * 2,
    )  # halves: the range of huge numbers is not infinite
    low, height = min(ys), (max(ys) / 2 - min(ys) / 2) * 2
    scaled = []
    for x, y in points:
        across = (x - left) / width if width and math.isfinite(width) else 0.5
        up = (y - low) / height if height and math.isfinite(height) else 0.5
        scaled.append((round(across * right), bottom - round(up * bottom)))
    return scaled


def _joined(dots: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The dots and those on the straight lines between neighbours; each pair once, however many share it."""
    seen: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    yield dots[0]
    for start, end in pairwise(dots):
        if (start, end) in seen:
            continue
        seen.add((start, end))
        count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for at in range(1, count + 1):
            yield (
                round(start[0] + (end[0] - start[0]) * at / count),
                round(start[1] + (end[1] - start[1]) * at / count),
            )


def _step_axis(points: Sequence[Point], columns: int) -> list[str]:
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    left, right = _short(first), _short(last) if last != first else ""
    middle = "step"
    gap = columns - len(left) - len(right) - len(middle)
    words = f"{left}{' ' * (gap // 2)}{middle}{' ' * (gap - gap // 2)}{right}"
    return [f"{'':>{LABEL}} └{'─' * columns}", f"{'':>{LABEL}}  {words}".rstrip()]


def _short(value: float) -> str:
    text = number(value)
    return text if len(text) <= LABEL else f"{value:.3g}"


def _plainer(lines: list[str]) -> list[str]:
    """The same in ASCII where the terminal's encoding has no braille."""
    try:
        "\n".join(lines).encode(sys.stdout.encoding or "utf-8")
        return lines
    except UnicodeEncodeError:
        frame = str.maketrans({"┤": "|", "└": "+", "─": "-"})
        return [
            "".join("*" if 0x2800 <= ord(c) < 0x2900 else c for c in line.translate(frame)) for line in lines
        ]
