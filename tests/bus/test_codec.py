from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import orjson
import pytest
from fakes import an_envelope
from hypothesis import given
from hypothesis import strategies as st

from nsml.bus.codec import Undecodable, decode, encode
from nsml.core.catalogue import CheckpointSaved, LogGrew, StopSession
from nsml.core.errors import BadInput
from nsml.core.messages import CATALOGUE, Envelope

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=50),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field of type *kind*."""
    args = typing.get_args(kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return st.one_of(st.none(), *(values(arg) for arg in args if arg is not type(None)))
    if typing.get_origin(kind) is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if typing.get_origin(kind) is tuple:
        return st.tuples(*(values(arg) for arg in args))
    return records(kind)


def records(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)})


def envelopes() -> st.SearchStrategy[Envelope]:
    messages = st.one_of(*(records(cls) for cls in CATALOGUE.values()))
    meta = {name: values(kind) for name, kind in typing.get_type_hints(Envelope).items() if name != "body"}
    return st.builds(Envelope, body=messages, **meta)


@given(envelopes())
def test_every_message_arrives_as_it_was_sent(envelope):
    assert decode(encode(envelope)) == envelope


@given(envelopes(), st.dictionaries(st.text(), st.integers(-(2**60), 2**60) | st.text(), max_size=3))
def test_unknown_fields_are_ignored(envelope, more):
    data = orjson.loads(encode(envelope))
    data = {**{f"x-{key}": value for key, value in more.items()}, **data}
    data["body"] = {**{f"x-{key}": value for key, value in more.items()}, **data["body"]}
    assert decode(orjson.dumps(data, option=orjson.OPT_PASSTHROUGH_DATACLASS)) == envelope


@given(st.binary())
def test_bytes_of_any_kind_are_decoded_or_refused(data):
    with pytest.raises(Undecodable):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(CATALOGUE)),
    st.dictionaries(st.sampled_from(["id", "at", "actor", "to"]), JSON),
    JSON,
)
def test_fields_of_the_wrong_kind_are_refused_and_nothing_else_goes_wrong(name, meta, body):
    try:
        decode(orjson.dumps({"id": "a", "at": 1.0, "name": name, **meta, "body": body}))
    except Undecodable as error:
        assert error.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"name": "session.fly", "id": "a", "at": 1, "body": {}}',
        b'{"name": ["session.stop"], "id": "a", "at": 1, "body": {}}',
        b'{"name": "session.stop", "id": "a", "at": 1, "body": {}}',
        b'{"name": "session.stop", "id": "a", "at": 1, "body": {"session": 3}}',
        b'{"name": "session.stop", "id": "a", "at": NaN, "body": {"session": "x"}}',
        b'{"name": "session.stop", "id": "a", "at": 1e999, "body": {"session": "x"}}',
        b'{"name": "log", "id": "a", "at": 1, "body": {"session": "x", "stream": "x", "offset": 0, "data": "?"}}',
    ],
)
def test_what_is_no_known_message_is_refused_with_a_sentence(data):
    with pytest.raises(Undecodable) as caught:
        decode(data)
    assert caught.value.message.endswith(".")


def test_a_missing_field_keeps_its_default():
    stop = orjson.dumps({"name": "session.stop", "id": "a", "at": 1, "body": {"session": "alice/mnist/1"}})
    assert decode(stop).body == StopSession(session="alice/mnist/1")


def test_bytes_travel_as_base64():
    grew = LogGrew(session="s", stream="x", offset=0, data=b"\x00\xff")
    assert orjson.loads(encode(an_envelope(grew, actor="node:n1")))["body"]["data"] == "AP8="


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_with_its_place(value):
    saved = CheckpointSaved(
        session="s", attempt=1, checkpoint="1", tree="", bytes=0, at=1.0, summary=(("loss", value),)
    )
    with pytest.raises(BadInput, match=r"body\.summary\.0\.1"):
        encode(an_envelope(saved, actor="node:n1"))


def test_half_a_character_is_refused():
    with pytest.raises(BadInput):
        encode(an_envelope(StopSession(session="s", reason="\ud800")))
