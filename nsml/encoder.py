"""Images and other bytes as text: base64."""

from __future__ import annotations

from binascii import b2a_base64


def encode(data: bytes | str) -> str:
    """*data* (text as UTF-8) in base64, on one line."""
    return b2a_base64(data.encode() if isinstance(data, str) else data, newline=False).decode("ascii")
