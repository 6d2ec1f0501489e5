"""How values are written in JSON: times with their zone, floats that every reader understands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

EXACT = (1 << 63) - 1  # larger whole numbers have no place in JSON that others read


def iso(at: float) -> str | None:
    """A time as ISO 8601 with zone; None when it never was."""
    if at <= 0:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def finite(value: Any) -> Any:
    """*value* with NaN and infinities as the strings "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else odd(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) <= EXACT else finite(_float(value))
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def odd(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
