"""Dataclasses as plain JSON values, and back."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from lpcc.errors import UsageError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """`value` in dicts, lists, strings, numbers, booleans and None; numbers that are not finite become None.

    Takes dataclasses, mappings, sequences, paths, and numbers of NumPy.

    Raises:
        TypeError: a value of any other type.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no plain form")


def from_plain(kind: type[T], data: Any, where: str = "") -> T:
    """An instance of dataclass `kind`, whose fields are of the types that `Report` uses.

    Raises:
        UsageError: a field without a default is missing or a value has another type; names the dotted path in `where`.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"not a report: {where or 'it'} must be an object")
    hints = typing.get_type_hints(kind)
    values = {}
    for item in fields(kind):  # type: ignore[arg-type]
        path = f"{where}.{item.name}" if where else item.name
        if item.name in data:
            values[item.name] = _value(hints[item.name], data[item.name], path)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise UsageError(f"not a report: {path} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(args[0], value, path)
    if is_dataclass(hint):
        return from_plain(typing.cast("type[Any]", hint), value, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(args[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {key: item if args[1] is Any else _value(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if origin is Literal and value in args:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise UsageError(f"not a report: {path} cannot be {value!r}")
