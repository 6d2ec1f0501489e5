"""Lists of files as they come from outside: read, checked, and their content all there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice

import orjson

from nsml.core.errors import BadInput, NotFound
from nsml.core.ids import digest
from nsml.core.plain import restore
from nsml.core.ports import Blobs
from nsml.core.tree import Tree, checked

IN_PLACE = 256 << 10  # a longer list is read in a thread, so that others are served meanwhile
ASKED_AT_ONCE = 5000


async def stored_tree(blobs: Blobs, name: str, most: int) -> Tree:
    """The tree of that digest, safe to be laid into a folder. Raises `BadInput` if a file is missing or
    not as long as the list says."""
    try:
        data = await blobs.get_bytes(digest(name), most)
    except NotFound as error:
        raise BadInput(
            f"The list of files {name[:12]}… was not uploaded.", hint="Upload it first."
        ) from error
    tree = _read(data) if len(data) <= IN_PLACE else await asyncio.to_thread(_read, data)
    sizes: dict[str, int] = {}
    for few in _batches({file.sha256 for file in tree.files}):
        sizes |= await blobs.sizes(few)
    _check_content(tree, sizes)
    return tree


def _check_content(tree: Tree, sizes: Mapping[str, int]) -> None:
    """Raise `BadInput` for a file whose content is not stored, or is not as long as the tree says."""
    for file in tree.files:
        found = sizes.get(file.sha256)
        if found is None:
            raise BadInput(
                f"The file {file.path!a} was not uploaded.", hint="Upload it first, then try again."
            )
        if found != file.bytes:
            raise BadInput(
                f"The file {file.path!a} has {found} bytes, not the {file.bytes} of the list.",
                hint="Send it again.",
            )


def _read(data: bytes) -> Tree:
    try:
        tree = restore(Tree, orjson.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"This is not a list of files: {str(error)[:200]}.") from error
    return checked(tree)


def _batches(digests: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(digests)
    while few := list(islice(rest, ASKED_AT_ONCE)):
        yield few
