"""What may be reported: numbers of any library, lists of them, text."""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii as _quoted
except ImportError:  # an interpreter without it
    from json.encoder import encode_basestring_ascii as _quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional

_LARGEST = 1 << 63  # larger integers are written as floats: few readers of JSON know them


def json_of(value: Any) -> str:
    """*value* as JSON in ASCII.

    By hand: importing `json` takes longer than the rest of the SDK, and a signal handler that reports in
    the middle of an import finds half a module.
    """
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, dict):
        return "{%s}" % ",".join(_quoted(name) + ":" + json_of(item) for name, item in value.items())
    return "[%s]" % ",".join([json_of(item) for item in value])


def noted(values: Mapping[str, Any]) -> Dict[str, Any]:
    """*values* as a note has them: names with `/`, None left out. Raises TypeError for anything else."""
    return {
        name.replace("__", "/"): _noted(name, value) for name, value in values.items() if value is not None
    }


def step_of(step: Any) -> Optional[float]:
    """*step* as a number; None when it is none, so that the report counts by itself."""
    try:
        found = None if step is None else float(step)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return found if found is not None and found - found == 0 else None  # neither NaN nor infinite


def _noted(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return [number(name, item) for item in value]
    return number(name, value)


def number(name: str, value: Any) -> Any:
    """*value* as JSON has it: NaN and the infinities by name. Raises TypeError unless it is one number."""
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return int(value)
    try:
        found = float(value) if not isinstance(value, (str, bytes, bytearray)) else None
    except OverflowError:
        found = float("inf") if value > 0 else -float("inf")
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None:
        raise TypeError(
            "nsml.report(%s=…) takes one number, a list of numbers or text, not %s"
            % (name, type(value).__name__)
        )
    if found - found == 0:
        return found
    return "NaN" if found != found else "Infinity" if found > 0 else "-Infinity"
