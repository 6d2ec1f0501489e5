"""StaticProbe: the GPUs that NSML_GPU says there are — none, or made-up ones for trying and testing."""

from __future__ import annotations

import re
import uuid
from types import TracebackType
from typing import Self

from nsml.core.catalogue import GpuLoad
from nsml.core.errors import BadInput
from nsml.core.ids import printable
from nsml.core.ports import Reading
from nsml.core.resources import GIB, Gpu

MOST_GPUS = 1024  # of one node; more is a slip of the finger
_GROUP = re.compile(r"(?P<count>[0-9]{1,5})(?:x(?P<model>[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}))?")
_MEMORY = re.compile(r"-([0-9]{1,4})GB?$", re.IGNORECASE)
_SPACE = uuid.UUID("6b1f2d1e-6a54-4c44-9a53-0d2f6f4e7a10")  # so that a node's GPUs keep their uuids for ever


class StaticProbe:
    """A probe of what was written down: `none:`, `static:4`, `static:4xA100-80G`, `static:2xV100,2xP40`.

    Raises `BadInput` for anything else.
    """

    def __init__(self, url: str, node: str) -> None:
        gpus = tuple(
            Gpu(index=index, uuid=_uuid(node, index, model), model=model, memory=_memory(model))
            for index, model in enumerate(_models(url))
        )
        self._reading = Reading(gpus=gpus, loads=tuple(GpuLoad(index=gpu.index) for gpu in gpus))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """There is nothing to close."""

    async def ping(self) -> None:
        """What is written down is always there."""

    async def read(self) -> Reading:
        return self._reading


def _models(url: str) -> list[str]:
    """One model (or an empty text) for each GPU of *url*."""
    scheme, _, groups = url.partition(":")
    if scheme == "none" and not groups:
        return []
    if scheme != "static":
        raise _not_understood(url)
    models: list[str] = []
    for group in groups.split(","):
        found = _GROUP.fullmatch(group.strip())
        if not found or len(models) + int(found["count"]) > MOST_GPUS:
            raise _not_understood(url)
        models += [found["model"] or ""] * int(found["count"])
    return models


def _not_understood(url: str) -> BadInput:
    return BadInput(
        f"NSML_GPU: {printable(url)[:200]!r} does not say which GPUs there are (at most {MOST_GPUS}).",
        hint="Write none:, static:4, static:4xA100-80G or static:2xV100,2xP40.",
    )


def _memory(model: str) -> int:
    """Bytes that a model's name tells, 0 when it tells none."""
    found = _MEMORY.search(model)
    return int(found[1]) * GIB if found else 0


def _uuid(node: str, index: int, model: str) -> str:
    return f"GPU-{uuid.uuid5(_SPACE, f'{node}/{index}/{model}')}"
