"""Frozen dataclasses as the schema of a data file: nested tables in, an instance or one clear line out."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from lpcc.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Bound:
    """Limits of a number, put beside its type: ``Annotated[float, Bound(above=0)]``."""

    least: float = -math.inf
    above: float = -math.inf

    def __str__(self) -> str:
        return f"above {self.above:g}" if self.above > self.least else f"at least {self.least:g}"


@dataclass(frozen=True)
class Names:
    """The keys that a table may have, put beside their type: ``Mapping[Annotated[str, Names(...)], float]``."""

    known: tuple[str, ...]


def build(cls: type[T], data: Mapping[str, Any], where: str, *, extra: Mapping[str, Any] | None = None) -> T:
    """An instance of dataclass `cls` from the tables of a file; `extra` gives fields that no file may state.

    Raises UsageError naming `where` (the file), the dotted key and what is expected there.
    """
    value: T = _dataclass(cls, data, where, "", extra or {})
    return value


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """The tail of a message about a name that is not known, with the nearest known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"which is not {what}; " + (f"nearest: `{near[0]}`" if near else f"known: {', '.join(known)}")


def _dataclass(cls: Any, data: Any, where: str, path: str, extra: Mapping[str, Any]) -> Any:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: `{path[:-1]}` must be a table, not {data!r}")
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in fields(cls) if f.name not in extra}
    values: dict[str, Any] = dict(extra)
    for key, value in data.items():
        if key not in known:
            full = next((name for name in known if name.startswith(f"{key}_")), None)
            if full is not None and isinstance(value, int | float):
                raise UsageError(f"{where}: `{path}{key}` does not say its unit; write `{full}`")
            raise UsageError(f"{where}: key `{path}{key}`, {unknown(key, known, 'known')}")
        values[key] = _value(hints[key], value, where, f"{path}{key}")
    for name, spec in known.items():
        if name not in values and spec.default is MISSING and spec.default_factory is MISSING:
            raise UsageError(f"{where}: key `{path}{name}` is missing; expected {_describe(hints[name])}")
    return cls(**values)


def _value(hint: Any, value: Any, where: str, path: str, expected: str = "") -> Any:
    """`value` checked against, and turned into, the type that `hint` says; `expected` describes that in full."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number = _value(args[0], value, where, path, _describe(hint))
        for bound in args[1:]:
            if isinstance(bound, Bound) and not (number >= bound.least and number > bound.above and number < math.inf):
                raise UsageError(f"{where}: `{path}` = {value!r} is out of range; expected {_describe(hint)}")
        return number
    if origin in (Union, types.UnionType):  # only `X | None`: a file cannot say None
        return _value(args[0], value, where, path, expected)
    if is_dataclass(hint):
        return _dataclass(hint, value, where, f"{path}.", {})
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        for names in get_args(args[0]):
            for key in value:
                if isinstance(names, Names) and key not in names.known:
                    raise UsageError(f"{where}: key `{path}.{key}`, {unknown(key, names.known, 'known')}")
        return {key: _value(args[1], item, where, f"{path}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_value(args[0], item, where, path) for item in value)
    if origin is Literal and value in args:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise UsageError(f"{where}: `{path}` = {value!r} is wrong; expected {expected or _describe(hint)}")


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_describe(args[0])} {args[1]}"
    if origin in (Union, types.UnionType):
        return _describe(args[0])
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in args)
    if origin is tuple:
        return "a list of texts"
    if is_dataclass(hint) or origin is not None:
        return "a table"
    return {float: "a number", int: "a whole number", bool: "true or false"}.get(hint, "a text")
