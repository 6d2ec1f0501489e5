"""How user functions are called: with the path that their era expects and the keywords that they take.

Before 2019 a save function got a path where nothing was yet, and a load function the file itself if there was
but one; later both got a folder. Nobody says which, so the later way is tried first and the error tells.
"""

from __future__ import annotations

import os

from nsml.sdk.spool import remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, Mapping

NAME = "model"  # of the path that a save function gets; a load of a prefix (`PATH.index`) needs it again


def accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> Dict[str, Any]:
    """Those of the keywords *offered* that *function* takes beside its first parameter."""
    if not offered:
        return {}
    import inspect  # late: it is slow to import

    try:
        first, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # no parameters, or a function that does not tell
        return {}
    if any(other.kind is other.VAR_KEYWORD for other in others):
        return {name: value for name, value in offered.items() if name != first.name}
    named = {
        other.name for other in others if other.kind in (other.POSITIONAL_OR_KEYWORD, other.KEYWORD_ONLY)
    }
    return {name: value for name, value in offered.items() if name in named}


def save(function: Callable[..., Any], parent: str, offered: Mapping[str, Any]) -> str:
    """Have *function* write below the folder *parent*; the folder in which the result lies."""
    path = os.path.join(parent, NAME)
    keywords = accepted(function, offered)
    os.mkdir(path)
    try:
        function(path, **keywords)
    except Exception as first:
        if not _is_about(path, first):
            raise
        _empty(parent)
        try:
            function(path, **keywords)
        except Exception as second:
            raise first if _is_about(path, second) else second from None
    return _result(parent, path)


def load(function: Callable[..., Any], folder: str, offered: Mapping[str, Any]) -> Any:
    """What *function* makes of the checkpoint in *folder*."""
    keywords = accepted(function, offered)
    first = None
    for path in _paths(folder):
        try:
            return function(path, **keywords)
        except Exception as error:
            if not _is_about(folder, error):
                raise
            first = first or error
    assert first is not None
    raise first


def _paths(folder: str) -> Iterator[str]:
    """The folder; its file, if there is but one; the prefix that its files have in common."""
    yield folder
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    if len(files) == 1:
        yield files[0]
    prefix = os.path.join(folder, NAME)
    if any(file.startswith(prefix) for file in files) and not os.path.exists(prefix):
        yield prefix


def _is_about(path: str, error: Exception) -> bool:
    """Whether *error* may come from the kind of path given, not from what the function does."""
    where = getattr(error, "filename", None)
    if where is not None and not isinstance(where, int):
        return os.fsdecode(where).startswith(path)
    text = str(error)
    return path in text or "is a directory" in text.lower()


def _empty(folder: str) -> None:
    remove(folder)
    os.mkdir(folder)


def _result(parent: str, path: str) -> str:
    """The folder to keep: *path* with what was written beside it, or *parent* when *path* is no folder."""
    if not os.path.isdir(path):
        return parent
    for name in os.listdir(parent):  # `np.savez(path)` writes `path.npz`
        beside = os.path.join(parent, name)
        if beside != path:
            os.rename(beside, os.path.join(path, name))
    return path
