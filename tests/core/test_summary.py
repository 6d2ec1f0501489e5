"""What a session's summary makes of its reports."""

from __future__ import annotations

import json
import math
import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsml.core import catalogue as c
from nsml.core import summary as module
from nsml.core.messages import Envelope
from nsml.core.plain import plain, restore
from nsml.core.summary import SUMMARY, Summary, decide

SESSION = "alice/mnist/12"


def note(**fields: object) -> bytes:
    payload = json.dumps(fields).encode()
    return struct.pack("<IB", len(payload), 1) + payload


def names(schema: int, *layout: str) -> bytes:
    return note(op="names", id=schema, names=layout)


def row(
    schema: int, *values: float, step: float = math.nan, summary: bool = False, at: float = 10.0
) -> bytes:
    payload = struct.pack(f"<IBdd{len(values)}d", schema, summary, at, step, *values)
    return struct.pack("<IB", len(payload), 2) + payload


def grew(data: bytes, offset: int = 0, stream: str = f"outbox/{SESSION}/1") -> Envelope:
    body = c.OutboxGrew(session=SESSION, stream=stream, offset=offset, data=data)
    return Envelope(body=body, at=99.0, actor="node:n1")


def after(*envelopes: Envelope) -> Summary:
    summary = None
    for envelope in envelopes:
        change = decide(summary, envelope)
        summary = change.body if change else summary
    assert summary is not None
    return summary


LOSS = names(1, "train/loss", "epoch", "epoch_total")


def test_the_last_report_counts():
    data = LOSS + row(1, 0.5, 1, 5, step=1, at=20.0) + row(1, 0.25, 2, 5, step=2, at=21.0)
    summary = after(grew(data))
    assert summary.values == {"train/loss": 0.25, "epoch": 2, "epoch_total": 5}
    assert (summary.reports, summary.step, summary.at, summary.progress) == (2, 2.0, 21.0, 0.4)
    assert summary.session == SESSION and summary.summary == {}


def test_whole_numbers_are_shown_as_such():
    summary = after(grew(LOSS + row(1, 0.5, 3, 5)))
    assert summary.values["epoch"] == 3 and isinstance(summary.values["epoch"], int)


def test_the_summary_is_the_last_report_made_as_one():
    first = LOSS + row(1, 0.5, 1, 5, summary=True)
    second = row(1, 0.4, 2, 5, summary=True) + row(1, 0.3, 3, 5)
    summary = after(grew(first), grew(second, offset=len(first)))
    assert summary.summary == {"train/loss": 0.4, "epoch": 2, "epoch_total": 5}
    assert summary.values["train/loss"] == 0.3


def test_a_name_keeps_its_last_value_while_others_are_reported():
    slow = note(op="report", at=5.0, step=7, summary=False, values={"valid/loss": 0.9, "note": "x"})
    summary = after(grew(LOSS + row(1, 0.5, 1, 5) + slow))
    assert summary.values["train/loss"] == 0.5 and summary.values["valid/loss"] == 0.9
    assert summary.step == 7


def test_a_report_without_a_step_stands_at_its_own_count():
    assert after(grew(LOSS + row(1, 0.5, 1, 5) + row(1, 0.5, 1, 5))).step == 2.0


@pytest.mark.parametrize(
    ("values", "progress"),
    [
        ({"epoch": 1, "epoch_total": 4}, 0.25),
        ({"iter": 3, "iter_total": 4}, 0.75),
        ({"epoch": 1, "epoch_total": 2, "iter": 9, "iter_total": 10}, 0.5),
        ({"epoch": 9, "epoch_total": 4}, 1.0),
        ({"epoch": -1, "epoch_total": 4}, 0.0),
        ({"epoch": 1, "epoch_total": 0}, None),
        ({"epoch": 1, "epoch_total": "four"}, None),
        ({"epoch": "NaN", "epoch_total": 4}, None),
        ({"epoch": 1}, None),
        ({"loss": 1}, None),
    ],
)
def test_progress_follows_from_epochs_or_iterations(values, progress):
    assert after(grew(note(op="report", at=1.0, step=1, summary=False, values=values))).progress == progress


def test_the_odd_numbers_are_safe_in_json():
    odd = names(1, "a", "b", "c") + row(1, math.nan, math.inf, -math.inf, step=math.nan, at=math.nan)
    summary = after(grew(odd))
    assert summary.values == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    assert summary.at == 99.0
    assert restore(Summary, orjson.loads(orjson.dumps(plain(summary)))) == summary


def test_names_that_stores_dislike_come_back_as_they_were():
    keys = {"$where": 1.5, "a.b": 2.5, "": 3.5, "__proto__": 4.5, "x" * 10_000: 5.5}
    summary = after(grew(note(op="report", at=1.0, step=1, summary=True, values=keys)))
    back = restore(Summary, orjson.loads(orjson.dumps(plain(summary))))
    assert back.summary["$where"] == 1.5 and back.summary["a.b"] == 2.5
    assert max(len(name) for name in back.summary) == module.LONGEST


def test_bytes_seen_before_are_skipped():
    data = LOSS + row(1, 0.5, 1, 5)
    summary = after(grew(data))
    assert decide(summary, grew(data)) is None
    more = data + row(1, 0.25, 2, 5)
    assert after(grew(data), grew(more)).reports == 2


def test_a_piece_that_starts_in_the_middle_of_what_is_known_counts_once():
    first, second, third = LOSS + row(1, 0.5, 1, 5), row(1, 0.4, 2, 5), row(1, 0.3, 3, 5)
    summary = after(grew(first + second), grew(second + third, offset=len(first)))
    assert summary.reports == 3 and summary.values["train/loss"] == 0.3


def test_what_lies_behind_a_gap_counts_once_its_layout_is_known():
    second, third = row(1, 0.4, 2, 5), row(1, 0.3, 3, 5)
    late = after(grew(second, offset=len(LOSS)))
    assert late.reports == 0
    summary = after(grew(second, offset=len(LOSS)), grew(LOSS), grew(third, offset=len(LOSS + second)))
    assert summary.reports == 1 and summary.values["train/loss"] == 0.3


def test_only_the_first_rank_counts():
    assert decide(None, grew(LOSS + row(1, 0.5, 1, 5), stream=f"outbox/{SESSION}/1.r1")) is None


def test_a_forked_child_of_the_first_rank_counts_too():
    child = grew(names(1, "valid/loss") + row(1, 0.9), stream=f"outbox/{SESSION}/1.p77")
    summary = after(grew(LOSS + row(1, 0.5, 1, 5)), child)
    assert summary.reports == 2 and summary.values["valid/loss"] == 0.9


def test_the_next_attempt_begins_its_stream_anew_and_keeps_the_values():
    first = grew(LOSS + row(1, 0.5, 1, 5, summary=True))
    second = grew(LOSS + row(1, 0.4, 2, 5), stream=f"outbox/{SESSION}/2")
    summary = after(first, second)
    assert summary.attempt == 2 and summary.reports == 2
    assert summary.values["train/loss"] == 0.4 and summary.summary["train/loss"] == 0.5
    assert decide(summary, grew(LOSS + row(1, 0.1, 3, 5) * 9)) is None  # of the attempt before


@pytest.mark.parametrize("stream", ["outbox/a/b/1/x", "outbox/a/b/1/", "", "outbox/a/b/1/1.r0.p1x"])
def test_a_stream_of_another_shape_is_none_of_ours(stream):
    assert decide(None, grew(LOSS, stream=stream)) is None


def test_garbage_is_ignored():
    assert decide(after(grew(LOSS)), grew(b"\xff" * 100, offset=len(LOSS))) is None


def test_other_messages_change_nothing():
    assert decide(None, Envelope(body=c.SessionQueued(session=SESSION, owner="alice"), at=1.0)) is None


def test_names_made_up_for_ever_do_not_grow_the_document_for_ever():
    data = b"".join(names(n, *(f"{n}/{m}" * 50 for m in range(20))) + row(n, *[0.5] * 20) for n in range(500))
    summary = after(grew(data))
    assert len(summary.values) == module.MOST_VALUES
    assert len(orjson.dumps(plain(summary))) < 2 << 20


def test_children_made_for_ever_do_not_push_out_the_main_stream():
    children = [grew(names(1, "x") + row(1, 1.5), stream=f"outbox/{SESSION}/1.p{n}") for n in range(100)]
    summary = after(grew(LOSS), *children, grew(row(1, 0.5, 1, 5), offset=len(LOSS)))
    assert len(summary.follows) == module.MOST_STREAMS
    assert summary.reports == 101 and summary.values["train/loss"] == 0.5


def test_long_texts_and_lists_are_cut():
    values = {"text": "y" * 5000, "vector": [1.5] * 5000}
    summary = after(grew(note(op="report", at=1.0, step=1, summary=False, values=values)))
    assert len(summary.values["text"]) == len(summary.values["vector"]) == module.LONGEST


@given(st.lists(st.integers(1, 4), max_size=12), st.data())
def test_however_it_is_cut_and_repeated_every_report_counts_once(sizes, data):
    records = [LOSS] + [row(1, n / 7, n, 50, step=n) for n in range(1, sum(sizes) + 1)]
    pieces, at, offset = [], 0, 0
    for size in [1, *sizes]:
        chunk = b"".join(records[at : at + size])
        pieces.append(grew(chunk, offset=offset))
        at, offset = at + size, offset + len(chunk)
    repeated = [p for piece in pieces for p in [piece] * data.draw(st.integers(1, 2))]
    summary = after(*repeated)
    assert summary.reports == len(records) - 1
    assert summary.reports == 0 or summary.values["epoch"] == summary.reports


def test_its_documents_are_called_after_the_session():
    assert SUMMARY.key(SESSION) == "summary/alice/mnist/12"
