"""What user code calls: bind, save, load, report, infer."""

from __future__ import annotations

import os
from struct import error as NotNumbers
from time import localtime, strftime, time

from nsml.sdk import calls, context, objects, spool, stop, values
from nsml.sdk.say import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    Function = Optional[Callable[..., Any]]

LONGEST = 200  # characters of a checkpoint's name


class Bound:
    """What was bound last; and the scope that was reported last, by reference alone."""

    save: Function = None
    load: Function = None
    infer: Function = None
    objects: Dict[str, Any] = {}
    scope: Any = None
    told = False


def bind(
    save: Function = None, load: Function = None, infer: Function = None, *more: Any, **objects_: Any
) -> None:
    """Say how a model is saved, loaded and asked: functions that take a path, or objects by keyword.

    Bound again, the last one wins. What else is given by position is tolerated; keywords go to the functions
    that take them.
    """
    objects_.pop("use_nsml_legacy", None)
    if save is not None or load is not None or objects_:
        bare = save is None and load is None
        Bound.save, Bound.load = (None, None) if bare else (save or Bound.save, load or Bound.load)
        Bound.objects = objects_
    Bound.infer = infer or Bound.infer
    if context.IS_ON_NSML and not Bound.told and (Bound.save or Bound.objects):
        Bound.told = spool.note("bound")
        stop.watch(_save)


def save(checkpoint: Any = None, save_fn: Function = None, *, iteration: Any = None, **keywords: Any) -> None:
    """Save a checkpoint by *save_fn*, else by the bound function, else the bound objects."""
    if not context.IS_ON_NSML:
        return
    name = _name(checkpoint if checkpoint is not None else iteration) or _now()
    function, offered = save_fn or Bound.save, dict(Bound.objects, **keywords)
    if function is None:
        kept = {key: value for key, value in offered.items() if objects.worth_saving(value)}
        if not kept:
            warn("unbound", "nothing is bound, so checkpoint %s was not saved. See nsml.bind." % name)
            return
        spool.keep(name, lambda parent: calls.save(lambda path: objects.save(kept, path), parent, {}))
        return
    chosen = function
    spool.keep(name, lambda parent: calls.save(chosen, parent, offered))


_save: Callable[[Any], None] = save  # `bind` has a parameter of that name


def load(
    checkpoint: Any = None,
    load_fn: Function = None,
    session: Any = None,
    *,
    iteration: Any = None,
    **keywords: Any,
) -> Any:
    """Load a checkpoint of *session* (this one, if none) and return what the function made of it; without a
    name the latest.

    Raises KeyError when there is no such checkpoint.
    """
    if not context.IS_ON_NSML:
        return None
    name = _name(checkpoint if checkpoint is not None else iteration)
    folder = spool.fetch(str(session) if session else context.SESSION_NAME, name)
    function, offered = load_fn or Bound.load, dict(Bound.objects, **keywords)
    if function is not None:
        return calls.load(function, folder, offered)
    kept = {key: value for key, value in offered.items() if objects.worth_saving(value)}
    if not kept:
        warn(
            "unbound load",
            "nothing is bound, so checkpoint %s is not used. See nsml.bind." % (name or "latest"),
        )
    return objects.load(kept, folder)


def report(summary: Any = False, scope: Any = None, *, step: Any = None, **reported: Any) -> None:
    """Report values by name (`train__loss` is shown as `train/loss`) at *step*, or by its own count.

    Raises TypeError for a value that is not a number, a list of numbers or text.
    """
    if not context.IS_ON_NSML:
        return
    if scope is not None:
        Bound.scope = scope
    if "walltime" in reported:
        reported["walltime"] = time()
    try:
        written = spool.box.row(reported, step, summary)
    except NotNumbers:
        written = None
    if written is None:
        fields = values.noted(reported)
        spool.note("report", step=values.step_of(step), summary=bool(summary), values=fields)


def infer(*data: Any, **keywords: Any) -> Any:
    """Call the bound infer function, as it is, and return its value."""
    if Bound.infer is None:
        warn("infer", "no infer function is bound. See nsml.bind.")
        return None
    return Bound.infer(*data, **keywords)


def save_folder(checkpoint: Any, folder: str) -> None:
    """Save the files of *folder* as a checkpoint."""
    import shutil

    def copied(path: str) -> None:
        shutil.copytree(folder, os.path.join(path, "x"))
        for name in os.listdir(os.path.join(path, "x")):
            os.rename(os.path.join(path, "x", name), os.path.join(path, name))

    save(checkpoint, save_fn=copied)


def _now() -> str:
    """The name of a checkpoint saved without one: the current time."""
    at = time()
    return "%s_%03d" % (strftime("%Y%m%d_%H%M%S", localtime(at)), at * 1000 % 1000)


def _name(checkpoint: Any) -> str:
    """The name of a checkpoint: 3 and "3" are the same. Raises ValueError for one that leads elsewhere."""
    if checkpoint is None:
        return ""
    name = str(checkpoint.item() if hasattr(checkpoint, "item") else checkpoint)
    parts = name.split("/")
    if not name.isprintable() or len(name) > LONGEST or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            "%r cannot name a checkpoint: up to %d printable characters can, without '..'" % (name, LONGEST)
        )
    return name
