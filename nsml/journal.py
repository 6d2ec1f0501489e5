"""The platform's own log: a sentence, then its facts; and the last words of a platform that cannot go on."""

from __future__ import annotations

import logging
import sys

from nsml.core.errors import NsmlError
from nsml.core.ids import printable

log = logging.getLogger("nsml.journal")

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
LONGEST = 500  # characters of a fact


class Facts(logging.Formatter):
    """Appends what a line was given as `extra`, as `key=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = ((key, value) for key, value in record.__dict__.items() if key not in _PLAIN)
        return super().formatMessage(record) + "".join(f" {key}={_shown(value)}" for key, value in facts)


def _shown(value: object) -> str:
    text = printable(str(value))[:LONGEST].replace("\n", " ")
    return repr(text) if " " in text or not text else text


def begin() -> None:
    """Log to stderr from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Facts("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def end(error: Exception) -> int:
    """Say what ended the platform and what to type next; its exit code."""
    why = _explained(error)
    sys.stderr.write(f"Error: {why.message}\n" + (f"{why.hint}\n" if why.hint else ""))
    return why.exit_code


def _explained(error: Exception) -> NsmlError:
    """*error* in words; what nobody foresaw leaves its traceback in the log."""
    if isinstance(error, ExceptionGroup):
        known, _ = error.split(NsmlError)
        return _explained((known or error).exceptions[0])
    if isinstance(error, NsmlError):
        return error
    log.error("the platform failed", exc_info=error)
    return NsmlError(f"The platform failed: {type(error).__name__}: {error}.")
