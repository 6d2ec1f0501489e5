"""What went wrong, in words and as an exit code: the platform's errors, and how a session's end counts."""

from __future__ import annotations

import sys
from typing import Any

from nsml.core.errors import BY_CODE, NotAllowed, NsmlError
from nsml.core.ids import printable

INTERRUPTED = 130
USAGE = 2
NOT_FINISHED = 101
NO_ROOM = 112
FAILED = 100
STOPPED = 103
BY_CAUSE = {"oom": 105, "time": 108, "preempted": 104, "credit": 106}


class RemoteError(NsmlError):
    """What the server answered instead of doing it; code and exit code are the answer's."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        known = BY_CODE.get(code, NsmlError)
        self.remote_code = code
        self.remote_exit = known.exit_code


def from_answer(status: int, answer: Any) -> NsmlError:
    """The error that an HTTP answer of *status* stands for."""
    told = answer.get("error") if isinstance(answer, dict) else None
    if status == 401:
        return NotAllowed(
            "The platform does not accept this token.",
            hint="Set NSML_TOKEN to the token of that platform ($NSML_HOME/token on its machine).",
        )
    if not isinstance(told, dict):
        return NsmlError(f"The platform answered with status {status} and no word why.")
    code, message, hint = (str(told.get(key) or "") for key in ("code", "message", "hint"))
    cls = BY_CODE.get(code)
    return cls(message, hint) if cls else RemoteError(code, message, hint)


def exit_code(error: NsmlError) -> int:
    return error.remote_exit if isinstance(error, RemoteError) else error.exit_code


def tell(code: str, message: str, hint: str, as_json: bool) -> None:
    """Say an error: a JSON document on stdout, or a sentence and the next step on stderr."""
    if as_json:
        import json

        document = {"error": {"code": code, "message": message, "hint": hint}}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    sys.stderr.write(printable(f"Error: {message}\n" + (f"{hint}\n" if hint else "")))


def tell_error(error: NsmlError, as_json: bool) -> int:
    """Say *error*; the exit code it stands for."""
    code = error.remote_code if isinstance(error, RemoteError) else error.code
    tell(code, error.message, error.hint, as_json)
    return exit_code(error)


def of_outcome(row: dict[str, Any], propagate: bool = False) -> int:
    """The exit code of an ended session: 0 completed, else why; with *propagate* its program's own."""
    status, code = row.get("status"), row.get("exit_code")
    if propagate and isinstance(code, int) and status in ("completed", "failed"):
        return code if code >= 0 else 128 - code
    if status == "completed":
        return 0
    if status in ("stopped", "removed"):
        return STOPPED
    return BY_CAUSE.get(str(row.get("cause") or ""), FAILED)
