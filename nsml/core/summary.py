"""What a session last reported: latest values, summary, progress; kept small, whatever it reports."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nsml.core import catalogue as c
from nsml.core import outbox
from nsml.core.messages import Envelope
from nsml.core.subject import Change, Subject

MOST_VALUES = 500  # names kept of a session: code that makes up names for ever must not grow its document
MOST_NAMES = 4000  # in all row layouts kept of a stream, for the same reason
MOST_STREAMS = 16  # forked children come and go; only the latest are followed
LONGEST = 200  # characters kept of a name or a text, numbers of a list
WHOLE = 1 << 53  # below, a float that tells a whole number tells exactly that one
_STREAM = re.compile(r"(?P<attempt>\d{1,9})(?P<rank>\.r\d+)?(?P<child>\.p\d+)?")

Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """An outbox stream of the attempt: up to which byte it is counted, and its row layouts by id."""

    stream: str
    offset: int = 0
    layouts: tuple[tuple[int, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A session's reports in short, as JSON knows them: `"NaN"`, `"Infinity"` and `"-Infinity"` are texts.

    `latest` has the last value of each name, `told` what was last reported with `summary=True`; pairs, since
    reported names may be what a store's field names must not. `progress` is 0 to 1, or None; `step` and `at`
    are the last report's.
    """

    session: str
    attempt: int = 0
    follows: tuple[Follow, ...] = ()
    latest: Pairs = ()
    told: Pairs = ()
    progress: float | None = None
    reports: int = 0
    step: float | None = None
    at: float = 0.0

    @property
    def values(self) -> dict[str, Any]:
        """The last value of each name."""
        return dict(self.latest)

    @property
    def summary(self) -> dict[str, Any]:
        """What was last reported with `summary=True`."""
        return dict(self.told)


def decide(summary: Summary | None, envelope: Envelope) -> Change[Summary] | None:
    """The change that a message makes to *summary*: what the first rank of the latest attempt reports counts.

    Bytes already counted are skipped. Those behind a gap count; the streams have what is missing here.
    """
    message = envelope.body
    if not isinstance(message, c.OutboxGrew):
        return None
    place = _STREAM.fullmatch(message.stream.rpartition("/")[2])
    before = summary or Summary(session=message.session)
    if place is None or place["rank"] or int(place["attempt"]) < before.attempt:
        return None
    if int(place["attempt"]) > before.attempt:
        before = replace(before, attempt=int(place["attempt"]), follows=())
    after = _grown(before, message, envelope.at)
    return None if after == summary else Change(after)


def _grown(summary: Summary, grew: c.OutboxGrew, at: float) -> Summary:
    known = next((f for f in summary.follows if f.stream == grew.stream), Follow(stream=grew.stream))
    counted = max(0, known.offset - grew.offset)
    try:
        _, _, layouts = outbox.read(grew.data[:counted], dict(known.layouts))  # may have come out of turn
        records, taken, layouts = outbox.read(grew.data[counted:], layouts)
    except ValueError:
        return summary  # user code wrote into its outbox itself
    end = max(known.offset, grew.offset + counted + taken)
    follow = Follow(stream=grew.stream, offset=end, layouts=_kept(layouts))
    reports = [record for record in records if isinstance(record, outbox.Report)]
    return _reported(replace(summary, follows=_following(summary.follows, follow)), reports, at)


def _kept(layouts: Mapping[int, tuple[str, ...]]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The latest of *layouts*, `MOST_NAMES` names in all; none of it can come to more than a few 100 KB."""
    kept: list[tuple[int, tuple[str, ...]]] = []
    room = MOST_NAMES
    for schema, names in sorted(layouts.items(), reverse=True):
        room -= len(names)
        if room < 0:
            break
        kept.append((schema, tuple(name[:LONGEST] for name in names)))
    return tuple(reversed(kept))


def _following(follows: tuple[Follow, ...], updated: Follow) -> tuple[Follow, ...]:
    """*follows* with *updated* at the end; beyond the limit the longest silent child is let go."""
    now = [*(f for f in follows if f.stream != updated.stream), updated]
    if len(now) > MOST_STREAMS:
        now.remove(next(f for f in now if ".p" in f.stream.rpartition("/")[2]))
    return tuple(now)


def _reported(summary: Summary, reports: list[outbox.Report], at: float) -> Summary:
    if not reports:
        return summary
    new: dict[str, outbox.Value] = {}
    for report in reports:
        new.update(report.values)
    values = {**summary.values, **_safe(new.items())}
    told = next((report for report in reversed(reports) if report.summary), None)
    last, count = reports[-1], summary.reports + len(reports)
    return replace(
        summary,
        latest=tuple(values.items())[:MOST_VALUES],
        told=summary.told if told is None else tuple(_safe(told.values).items())[:MOST_VALUES],
        progress=_progress(values),
        reports=count,
        step=last.step if last.step is not None else float(count),  # the first report without one is at 1
        at=last.at if math.isfinite(last.at) else at,
    )


def _progress(values: Mapping[str, Any]) -> float | None:
    """How far it says it is: `epoch` of `epoch_total`, else `iter` of `iter_total`."""
    for name in ("epoch", "iter"):
        done, total = values.get(name), values.get(f"{name}_total")
        if isinstance(done, (int, float)) and isinstance(total, (int, float)) and total > 0:
            return max(0.0, min(1.0, done / total))
    return None


def _safe(values: Iterable[tuple[str, outbox.Value]]) -> dict[str, Any]:
    """*values* as JSON knows them, long ones cut."""
    return {name[:LONGEST]: _json(value) for name, value in values}


def _json(value: outbox.Value) -> Any:
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, list):
        return [_json(item) for item in value[:LONGEST]]
    if isinstance(value, float):
        return _number(value)
    return value


def _number(value: float) -> float | int | str:
    """A number of JSON or its name; a whole one as an int, so that people see `epoch=3`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return int(value) if abs(value) < WHOLE and value.is_integer() else value


SUMMARY: Subject[Summary] = Subject("summary", Summary, decide)
