"""Everything that can go wrong, as one tree; the class says which exit code and HTTP status people get.

NsmlError
├── BadInput        what was typed or sent cannot be understood
├── NotFound        nothing of that name is there (or may be seen)
├── Ambiguous       the name fits more than one thing
├── NotAllowed      it is there, but not yours to touch
├── NeverFits       no node could ever run it
├── NoRoom          no node can run it now, and it was not to wait
├── Refused         the thing is in a state in which this cannot be done
├── NotRunning      a running session was asked for
├── TooLarge        over a limit of size or count
├── Unavailable     a server is away; the same call may go through later
├── Damaged         data on disk cannot be read; nothing was changed
├── Conflict        the document changed since it was read
└── Fenced          somebody with a higher term leads by now
"""

from __future__ import annotations

from typing import ClassVar


class NsmlError(Exception):
    """Something a person can act on: *message* says what and why, *hint* what to type next."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(NsmlError):
    """What was typed or sent cannot be understood."""

    code, exit_code, status = "bad-input", 2, 400


class NotFound(NsmlError):
    """Nothing of that name is there, or may be seen."""

    code, exit_code, status = "not-found", 102, 404


class Ambiguous(NsmlError):
    """The name fits more than one thing."""

    code, exit_code, status = "ambiguous", 2, 409


class NotAllowed(NsmlError):
    """It is there, but not yours to touch."""

    code, exit_code, status = "not-allowed", 110, 403


class NeverFits(NsmlError):
    """No node of the cluster could ever run it."""

    code, exit_code, status = "never-fits", 107, 422


class NoRoom(NsmlError):
    """No node can run it now, and it was not to wait."""

    code, exit_code, status = "no-room", 112, 409


class Refused(NsmlError):
    """The thing is in a state in which this cannot be done."""

    code, exit_code, status = "refused", 1, 409


class NotRunning(NsmlError):
    """A running session was asked for, and it does not run."""

    code, exit_code, status = "not-running", 101, 409


class TooLarge(NsmlError):
    """Over a limit of size or count."""

    code, exit_code, status = "too-large", 2, 413


class Unavailable(NsmlError):
    """A server is away; the same call may go through later."""

    code, exit_code, status = "unavailable", 111, 503


class Damaged(NsmlError):
    """Data on disk cannot be read; nothing was changed."""

    code, exit_code, status = "damaged", 1, 500


class Conflict(NsmlError):
    """The document changed since it was read."""

    code, exit_code, status = "conflict", 1, 409


class Fenced(NsmlError):
    """Somebody with a higher term leads by now."""

    code, exit_code, status = "fenced", 1, 409


BY_CODE: dict[str, type[NsmlError]] = {
    cls.code: cls
    for cls in (
        NsmlError,
        BadInput,
        NotFound,
        Ambiguous,
        NotAllowed,
        NeverFits,
        NoRoom,
        Refused,
        NotRunning,
        TooLarge,
        Unavailable,
        Damaged,
        Conflict,
        Fenced,
    )
}
