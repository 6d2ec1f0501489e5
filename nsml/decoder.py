"""Bytes back from the text that `nsml.encoder` made of them."""

from __future__ import annotations

from binascii import a2b_base64


def decode(text: bytes | str) -> bytes:
    """The bytes that *text* is in base64. Raises ValueError when it is not."""
    return a2b_base64(text)
