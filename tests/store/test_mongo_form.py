"""How a body is kept in MongoDB."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml.core.errors import BadInput
from nsml.store.mongo_form import loaded, stored

keys = st.text(alphabet=".$%\x00_2E4a", max_size=6) | st.text(max_size=4)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def every_key(value: object) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for item in value.values() for key in every_key(item))]
    return [key for item in value for key in every_key(item)] if isinstance(value, list) else []


@given(values)
def test_what_is_stored_is_loaded_as_it_was(value):
    assert loaded(stored(value, "x")) == value


@given(values)
def test_no_key_is_empty_a_path_or_a_command(value):
    for key in every_key(stored(value, "x")):
        assert key and not key.startswith("$") and "." not in key and "\x00" not in key


@given(st.sets(keys))
def test_no_two_keys_become_one(some):
    assert len(stored(dict.fromkeys(some), "x")) == len(some)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, float("nan"), [float("inf")], {"a": b"x"}, {1, 2}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(BadInput, match="session/a"):
        stored(value, "session/a")
