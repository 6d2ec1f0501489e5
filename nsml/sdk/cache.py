"""Preprocessing that is done once."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence, Union


def cache(
    preprocess_fn: Callable[..., Any],
    output_path: Union[str, Sequence[str]] = ("./processed",),
    **keywords: Any,
) -> None:
    """Call *preprocess_fn* with `output_path=` and *keywords*, unless every output path has content."""
    paths = [output_path] if isinstance(output_path, str) else list(output_path)
    if not all(_has_content(path) for path in paths):
        preprocess_fn(output_path=output_path if isinstance(output_path, str) else paths, **keywords)


def _has_content(path: str) -> bool:
    return bool(os.listdir(path)) if os.path.isdir(path) else os.path.exists(path)
