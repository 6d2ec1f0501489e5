"""Names and patterns."""

from __future__ import annotations

import pytest

from nsml.core import ids


@pytest.mark.parametrize(
    ("pattern", "does"),
    [("alice/mnist/12", True), ("mnist/12", True), ("12", True), ("1?", True), ("*", True), ("mnist/*", True),
     ("alice/*", True), ("*/mnist/*", True), ("mn*/1[0-9]", True), ("2", False), ("nist/12", False),
     ("bob/*", False), ("1", False), ("mnist", False), ("x/alice/mnist/12", False)],
)  # fmt: skip
def test_a_pattern_fits_a_whole_name_or_its_last_parts(pattern: str, does: bool) -> None:
    assert ids.fits("alice/mnist/12", pattern) is does
