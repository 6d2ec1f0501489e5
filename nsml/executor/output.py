"""The files that a session produced beside its code."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from nsml.core.errors import NotFound
from nsml.core.ports import Blobs
from nsml.core.tree import Tree
from nsml.executor import trees

log = logging.getLogger(__name__)

MOST_FILES, MOST_BYTES = 100_000, 10 << 30  # of one session; what is beyond stays behind
BYPRODUCTS = {"__pycache__", ".ipynb_checkpoints"}


async def keep(blobs: Blobs, app: Path, laid: Path, code: str) -> str:
    """Store what is in *app* and was not there, or was different, when the file *laid* was made; the digest
    of its tree, "" for nothing. *code* is the tree that was laid."""
    files = await asyncio.to_thread(_changed, app, laid)
    if not files:
        return ""
    _, tree = await trees.store(blobs, app, files)
    try:
        uploaded = {(file.path, file.sha256) for file in (await trees.read(blobs, code)).files}
    except NotFound:
        uploaded = set()
    produced = tuple(file for file in tree.files if (file.path, file.sha256) not in uploaded)
    return await trees.put_list(blobs, Tree(files=produced)) if produced else ""


def _changed(app: Path, laid: Path) -> list[Path]:
    """Files whose inode was touched after *laid*: no program can set that time back."""
    try:
        since = laid.stat().st_ctime_ns
    except FileNotFoundError:
        return []
    found: list[Path] = []
    total = 0
    for path in sorted(trees.walk(app)):
        status = path.stat()
        if status.st_ctime_ns <= since or BYPRODUCTS & set(path.relative_to(app).parts):
            continue
        total += status.st_size
        if len(found) == MOST_FILES or total > MOST_BYTES:
            log.warning("produced files left behind", extra={"folder": str(app), "kept": len(found)})
            break
        found.append(path)
    return found
