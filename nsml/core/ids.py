"""Names people type and ids machines use: sessions, datasets, nodes, attempts, digests."""

from __future__ import annotations

import re
import secrets
from fnmatch import fnmatchcase

from nsml.core.errors import BadInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
NO_DATASET = "None"


def new_id() -> str:
    """A message id that no other message has (128 random bits, hex)."""
    return secrets.token_hex(16)


def name(text: str, what: str) -> str:
    """*text* if it may name a dataset, node or user; else `BadInput` that says which characters may."""
    if NAME.fullmatch(text):
        return text
    raise BadInput(
        f"{printable(text)!r} cannot name a {what}: 1 to 64 letters, digits, '.', '_' or '-', "
        "the first a letter or digit.",
        hint=f"Choose another name, such as 'my-{what}'.",
    )


def digest(text: str) -> str:
    """*text* if it is a SHA-256 in lower-case hex; else `BadInput`."""
    if DIGEST.fullmatch(text):
        return text
    raise BadInput(f"{printable(text)[:80]!r} is not a digest: 64 hexadecimal digits are.")


def session_id(owner: str, dataset: str, number: int) -> str:
    return f"{owner}/{dataset}/{number}"


def fits(session: str, pattern: str) -> bool:
    """Whether *pattern* with `*` and `?` fits the name of *session*, or its last parts: `mnist/*`, `1?`."""
    last = session.split("/")[-1 - pattern.count("/") :]
    return fnmatchcase(session, pattern) or fnmatchcase("/".join(last), pattern)


def attempt_id(session: str, attempt: int, rank: int = 0) -> str:
    """The name of one attempt's share on one node: a file name and container name as it is."""
    return f"{session.replace('/', '~')}~{attempt}" + (f"~r{rank}" if rank else "")


def parse_attempt(text: str) -> tuple[str, int, int]:
    """The (session, attempt, rank) of what `attempt_id` made."""
    owner, dataset, number, attempt, *rank = text.split("~")
    return session_id(owner, dataset, int(number)), int(attempt), int(rank[0][1:]) if rank else 0


def stream_id(kind: str, session: str, attempt: int, rank: int = 0) -> str:
    """A stream's name, such as `log/alice/mnist/12/1`; kinds: log, log.err, build, outbox."""
    return f"{kind}/{session}/{attempt}" + (f".r{rank}" if rank else "")


def printable(text: str) -> str:
    """*text* without control characters, so that it is safe on a terminal and in a mail header."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
