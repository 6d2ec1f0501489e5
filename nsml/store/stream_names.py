"""What may name a stream, in every place for streams."""

from __future__ import annotations

import os

from nsml.core.errors import BadInput
from nsml.core.ids import printable


def parts(stream: str) -> list[str]:
    """The parts of *stream*'s name. Raises `BadInput` for one that is no path, or leads elsewhere."""
    found = stream.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255 for part in found):
        raise BadInput(f"{printable(stream)[:200]!r} cannot name a stream.")
    return found


def folder(prefix: str) -> list[str]:
    """The parts of the folder that all streams whose name begins with *prefix* lie in."""
    return parts(prefix.rpartition("/")[0]) if "/" in prefix else []
