"""The sessions removed of late, whose last telemetry may still be on its way."""

from __future__ import annotations

from collections import OrderedDict

MOST = 10_000  # far more than can be on their way at once; a name is never used again


class Gone:
    """A set of session names that forgets the oldest."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()

    def add(self, session: str) -> None:
        self._names[session] = None
        if len(self._names) > MOST:
            self._names.popitem(last=False)

    def __contains__(self, session: str) -> bool:
        return session in self._names
