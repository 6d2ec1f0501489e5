"""Frozen dataclasses to plain JSON values and back; unknown fields are ignored, missing ones default."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def plain(value: Any) -> Any:
    """*value* as dicts, lists, strings, numbers, bytes and None."""
    kind = type(value)
    if kind in _AS_IS:
        return value
    if dataclasses.is_dataclass(kind):
        return {name: plain(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    raise TypeError(f"{kind.__name__} has no plain form")


def restore(cls: type[T], data: Any) -> T:
    """The *cls* that `plain` made *data* from; ValueError or TypeError when it cannot have been."""
    return typing.cast(T, _reader(typing.cast(Any, cls), True)(data))


def trusted(cls: type[T], data: Any) -> T:
    """As `restore`, but of what was checked before, such as our own documents: plain values are taken as
    they are, which is three times as fast."""
    return typing.cast(T, _reader(typing.cast(Any, cls), False)(data))


_AS_IS = frozenset({str, int, float, bool, bytes, type(None)})


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _same(data: Any) -> Any:
    return data


@cache
def _reader(kind: Any, checks: bool) -> Callable[[Any], Any]:
    origin = typing.get_origin(kind)
    if kind is Any or kind in _AS_IS:
        return _scalar(kind) if checks else _same
    if origin in (typing.Union, types.UnionType):
        return _optional(kind, checks)
    if origin is tuple:
        return _tuple(typing.get_args(kind), checks)
    if origin in (dict, Mapping):
        return _mapping(_reader(typing.get_args(kind)[1], checks))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, checks)
    return _same


def _scalar(kind: Any) -> Callable[[Any], Any]:
    if kind is float:
        return _number
    if kind in (str, bytes, int, bool):
        return lambda data: _exactly(kind, data)
    return _same


def _number(data: Any) -> float:
    if isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    raise TypeError(f"a number was expected, not {type(data).__name__}")


def _exactly(kind: type, data: Any) -> Any:
    if isinstance(data, kind) and (kind is not int or not isinstance(data, bool)):
        return data
    raise TypeError(f"{kind.__name__} was expected, not {type(data).__name__}")


def _optional(kind: Any, checks: bool) -> Callable[[Any], Any]:
    (inner,) = (arg for arg in typing.get_args(kind) if arg is not type(None))
    read = _reader(inner, checks)
    return _same if read is _same else lambda data: None if data is None else read(data)


def _mapping(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda data: {str(key): item(value) for key, value in data.items()}


def _tuple(args: tuple[Any, ...], checks: bool) -> Callable[[Any], Any]:
    if len(args) == 2 and args[1] is Ellipsis:
        item = _reader(args[0], checks)
        if item is _same:
            return tuple
        return lambda data: tuple([item(value) for value in _list(data)])
    items = tuple(_reader(arg, checks) for arg in args)
    return lambda data: tuple(read(value) for read, value in zip(items, _list(data), strict=True))


def _list(data: Any) -> Any:
    if isinstance(data, (list, tuple)):
        return data
    raise TypeError(f"a list was expected, not {type(data).__name__}")


def _dataclass(cls: Any, checks: bool) -> Callable[[Any], Any]:
    readers: dict[str, Callable[[Any], Any]] = {}

    def read(data: Any) -> Any:
        if not readers:  # made on first use, so that a class may mention itself
            hints = typing.get_type_hints(cls)
            readers.update({name: _reader(hints[name], checks) for name in _names(cls)})
        if not isinstance(data, Mapping):
            raise TypeError(f"{cls.__name__} was expected, not {type(data).__name__}")
        return cls(
            **{
                name: value if (reader := readers[name]) is _same else reader(value)
                for name, value in data.items()
                if name in readers
            }
        )

    return read
