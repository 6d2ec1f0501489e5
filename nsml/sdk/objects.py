"""Saving and loading of objects that were bound by name, when no function was."""

from __future__ import annotations

import os
import sys

from nsml.sdk.say import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

_PLAIN = (type(None), bool, int, float, complex, str, bytes)  # options of `bind`, nothing to save


def worth_saving(value: Any) -> bool:
    return not isinstance(value, _PLAIN) and not callable(getattr(value, "__code__", None))


def save(objects: Mapping[str, Any], folder: str) -> None:
    """Write each of *objects* into a file of its name: weights where the library has them, else a pickle."""
    for name, value in objects.items():
        path = os.path.join(folder, name)
        if _is_session(value):
            _tensorflow().train.Saver().save(value, path)
        elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            _write(value.state_dict(), path)
        elif hasattr(value, "save_weights") and hasattr(value, "load_weights"):
            value.save_weights(path + ".weights.h5")
        else:
            _pickle(name, value, path + ".pickle")


def load(objects: Mapping[str, Any], folder: str) -> None:
    """Put into each of *objects* what `save` wrote of it."""
    for name, value in objects.items():
        path = os.path.join(folder, name)
        if _is_session(value):
            _tensorflow().train.Saver().restore(value, path)
        elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            value.load_state_dict(_read(path))
        elif hasattr(value, "save_weights") and hasattr(value, "load_weights"):
            value.load_weights(path + ".weights.h5")
        elif os.path.exists(path + ".pickle"):
            _unpickle(value, path + ".pickle")


def copy(source: Any, target: Any) -> None:
    """Copy the entries of a dict, or the attributes of an object, into *target*, of the same type."""
    if isinstance(source, dict) and isinstance(target, dict):
        target.update(source)
    elif type(source) is type(target) and hasattr(source, "__dict__"):
        vars(target).update(vars(source))
    else:
        raise TypeError(
            "nsml.copy takes two dicts or two objects of one class, not %s and %s"
            % (type(source).__name__, type(target).__name__)
        )


def _is_session(value: Any) -> bool:
    cls = type(value)
    return cls.__module__.startswith("tensorflow") and cls.__name__ in ("Session", "InteractiveSession")


def _tensorflow() -> Any:
    module = sys.modules["tensorflow"]
    return module.compat.v1 if hasattr(module, "compat") else module


def _write(state: Any, path: str) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.save(state, path + ".pt")
    else:
        _dump(state, path + ".pickle")


def _read(path: str) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and os.path.exists(path + ".pt"):
        return torch.load(path + ".pt", map_location="cpu")
    return _restored(path + ".pickle")


def _pickle(name: str, value: Any, path: str) -> None:
    try:
        _dump(value, path)
    except Exception as error:  # whatever the object's own code raises; the others are saved all the same
        os.unlink(path)
        warn("pickle " + name, "%s cannot be saved: %s" % (name, error))


def _unpickle(value: Any, path: str) -> None:
    found = _restored(path)
    if isinstance(value, dict):
        value.clear()
    if isinstance(value, list):
        value[:] = found
    else:
        copy(found, value)


def _dump(value: Any, path: str) -> None:
    import pickle

    with open(path, "wb") as file:
        pickle.dump(value, file)


def _restored(path: str) -> Any:
    import pickle

    with open(path, "rb") as file:
        return pickle.load(file)
