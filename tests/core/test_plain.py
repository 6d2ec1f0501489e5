"""Records to plain values and back, today's and yesterday's."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml.core.messages import CATALOGUE, Message
from nsml.core.plain import plain, restore


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    number: int
    share: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    colour: Colour = Colour.RED
    several: tuple[Inner, ...] = ()
    pairs: tuple[tuple[str, float | None], ...] = ()
    maybe: int | None = None
    data: bytes = b""


texts = st.text(max_size=5)
inners = st.builds(Inner, number=st.integers(), share=st.floats(allow_nan=False))
outers = st.builds(
    Outer,
    name=texts,
    inner=inners,
    several=st.lists(inners, max_size=3).map(tuple),
    pairs=st.lists(
        st.tuples(texts, st.none() | st.floats(allow_nan=False)),
        max_size=3,
    ).map(tuple),
    maybe=st.none() | st.integers(),
    data=st.binary(max_size=5),
)


@given(outers)
def test_what_was_made_plain_comes_back(value: Outer) -> None:
    assert restore(Outer, plain(value)) == value


def test_unknown_fields_are_ignored_and_missing_ones_keep_their_default() -> None:
    found = restore(Outer, {"name": "a", "inner": {"number": 1, "new": 2}, "newer": []})
    assert found == Outer(name="a", inner=Inner(number=1))


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"name": 1, "inner": {"number": 1}},
        {"name": "a", "inner": {"number": "1"}},
        {"name": "a", "inner": {"number": True}},
        {"name": "a", "inner": 3},
        {"name": "a", "inner": {"number": 1}, "several": {"a": 1}},
        {"name": "a", "inner": {"number": 1}, "several": "ab"},
        {"name": "a", "inner": {"number": 1}, "colour": "green"},
        {"name": "a", "inner": {"number": 1}, "pairs": [["a"]]},
    ],
)
def test_what_cannot_have_been_made_is_an_error_of_two_kinds_only(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        restore(Outer, data)


def test_an_integer_is_a_number_and_what_has_no_plain_form_says_so() -> None:
    assert restore(Inner, {"number": 1, "share": 1}).share == 1.0
    with pytest.raises(TypeError, match="no plain form"):
        plain(object())


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_every_message_has_a_flat_form_of_known_types(kind: type[Message]) -> None:
    for field in fields(kind):
        assert field.name.islower()
        assert field.default is not MISSING or field.default_factory is MISSING
    with pytest.raises((ValueError, TypeError)):
        restore(kind, "not a record")
