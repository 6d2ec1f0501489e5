"""The outbox as its readers see it."""

import json
import math
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml.core.outbox import Load, Other, Report, Save, read, series


def note(**fields):
    payload = json.dumps(fields).encode()
    return struct.pack("<IB", len(payload), 1) + payload


def row(schema, *values, at=10.0, step=math.nan, summary=False):
    payload = struct.pack(f"<IBdd{len(values)}d", schema, summary, at, step, *values)
    return struct.pack("<IB", len(payload), 2) + payload


LOSS = note(op="names", id=1, names=["train/loss", "lr"])


def test_rows_take_their_names_from_the_layout_before_them():
    data = LOSS + row(1, 0.5, 0.1, step=3.0, summary=True)
    records, consumed, names = read(data, {})
    assert records == [Report(10.0, 3.0, (("train/loss", 0.5), ("lr", 0.1)), True)]
    assert consumed == len(data) and names == {1: ("train/loss", "lr")}


def test_layouts_seen_earlier_are_handed_in():
    _, _, names = read(LOSS, {})
    records, _, _ = read(row(1, 1.0, 2.0), names)
    assert records == [Report(10.0, None, (("train/loss", 1.0), ("lr", 2.0)), False)]


def test_what_was_handed_in_stays_as_it_was():
    names = {}
    read(LOSS, names)
    assert names == {}


@given(st.integers(0, 200))
def test_a_record_cut_short_is_left_for_later(cut):
    data = LOSS + row(1, 1.0, 2.0) + note(op="save", checkpoint="3", path="saves/000001", at=1.0)
    cut = min(cut, len(data))
    first, consumed, names = read(data[:cut], {})
    second, rest, _ = read(data[consumed:], names)
    assert len(first + second) == 2 and consumed + rest == len(data) and consumed <= cut


def test_zeros_end_the_data():
    data = LOSS + row(1, 1.0, 2.0)
    records, consumed, _ = read(data + bytes(4096), {})
    assert len(records) == 1 and consumed == len(data)


def test_a_record_still_being_written_ends_the_data():
    assert read(struct.pack("<IB", 40, 0) + bytes(40), {}) == ([], 0, {})


@pytest.mark.parametrize("header", [struct.pack("<IB", 4, 3), struct.pack("<IB", 1 << 30, 2)])
def test_where_no_record_can_begin_is_an_error(header):
    with pytest.raises(ValueError, match="byte"):
        read(LOSS + header + b"abcd", {})


def test_reports_of_other_values_come_as_notes():
    values = {"text": "hi", "v": [1, "NaN"], "inf": "-Infinity", "n": 2, "huge": 10**400}
    (report,), _, _ = read(note(op="report", at=1, step=None, summary=True, values=values), {})
    found = dict(report.values)
    assert found["text"] == "hi" and found["v"][0] == 1 and math.isnan(found["v"][1])
    assert found["inf"] == -math.inf and found["n"] == 2 and found["huge"] == math.inf and report.summary


def test_saves_loads_and_others():
    data = (
        note(op="save", checkpoint="best", path="saves/1", at=2.0)
        + note(op="load", request="r", session="alice/d/1", checkpoint=None)
        + note(op="paused", at=3.0)
    )
    records, _, _ = read(data, {})
    assert records == [
        Save("best", "saves/1", 2.0),
        Load("r", "alice/d/1", None),
        Other("paused", {"op": "paused", "at": 3.0}),
    ]


@pytest.mark.parametrize(
    "payload",
    [b"{", b"[]", b"{}", b'{"op":1}', b'{"op":"save"}', b"[" * 100_000, b"\xff", b'{"op":"report"}'],
)
def test_nonsense_in_a_whole_record_is_passed_over(payload):
    data = struct.pack("<IB", len(payload), 1) + payload + LOSS + row(1, 1.0, 2.0)
    records, consumed, _ = read(data, {})
    assert records[0] == Other("", {}) and isinstance(records[1], Report) and consumed == len(data)


def test_a_row_of_unknown_or_other_layout_is_passed_over():
    records, consumed, _ = read(LOSS + row(9, 1.0) + row(1, 1.0), {})
    assert [type(r) for r in records] == [Other, Other] and consumed == len(LOSS + row(9, 1.0) + row(1, 1.0))


def test_names_hold_no_lone_surrogates():
    (report,), _, _ = read(note(op="report", at=1, step=1, summary=False, values={"a\udc80": 1}), {})
    assert report.values == (("a?", 1),)


@given(st.binary(max_size=300))
def test_any_bytes_are_records_or_an_error(data):
    try:
        _, consumed, _ = read(data, {})
    except ValueError:
        return
    assert 0 <= consumed <= len(data)


def test_series_have_the_values_of_each_name_in_order():
    data = LOSS + row(1, 1.0, 2.0, step=0.0) + row(1, 3.0, 4.0, step=1.5, at=11.0)
    assert series(read(data, {})[0]) == [
        {"name": "train/loss", "steps": [0, 1.5], "values": [1.0, 3.0], "times": [10.0, 11.0]},
        {"name": "lr", "steps": [0, 1.5], "values": [2.0, 4.0], "times": [10.0, 11.0]},
    ]


def test_reports_without_a_step_count_by_themselves():
    loss = note(op="names", id=1, names=["loss"])
    data = loss + row(1, 0.1, step=1.0) + row(1, 0.2, step=2.0) + row(1, 0.3) + row(1, 0.4, step=math.inf)
    assert series(read(data, {})[0])[0]["steps"] == [1, 2, 3, 4]


def test_texts_and_vectors_are_no_curves():
    values = {"text": "hi", "vector": [1, 2], "loss": 1}
    records, _, _ = read(note(op="report", at=1, step=1e300, summary=False, values=values), {})
    assert [(s["name"], s["steps"]) for s in series(records)] == [("loss", [1e300])]


def test_ten_thousand_rows_take_a_moment():
    data = LOSS + b"".join(row(1, float(i), 0.1, step=float(i)) for i in range(10_000))
    began = time.perf_counter()
    records, _, _ = read(data, {})
    curves = series(records)
    assert time.perf_counter() - began < 0.5
    assert curves[0]["steps"] == curves[0]["values"] == list(range(10_000))
