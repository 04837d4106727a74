"""Writing targets: a TOML file with what differs from the target that it extends, and its kernel table as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lpcc.cost.table import COLUMNS
from lpcc.targets.fit.host.fitting import Coefficients

_DIGITS = 4


def toml(tables: Mapping[str, Any], comment: str = "") -> str:
    """A target file: keys first, then tables; strings, numbers, booleans, lists of strings, and tables of them."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [line for key, value in tables.items() if not isinstance(value, Mapping) for line in [_pair(key, value)]]
    for key, value in tables.items():
        if isinstance(value, Mapping):
            lines += _section(key, value)
    return "\n".join(lines) + "\n"


def table_csv(found: Coefficients, comment: str) -> str:
    """The kernel table of fitted nanoseconds."""
    out = io.StringIO()
    out.writelines(f"# {line}\n" for line in comment.splitlines())
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (kind, dtype, term), value in sorted(found.values.items()):
        if dtype:
            writer.writerow([kind, dtype, "ns", term, rounded(value)])
    return out.getvalue()


def rounded(value: float) -> float:
    """A number with as many digits as measurements are worth."""
    return float(f"{value:.{_DIGITS}g}")


def _section(path: str, table: Mapping[str, Any]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if plain:
        yield ""
        yield f"[{path}]"
        yield from (_pair(key, value) for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _section(f"{path}.{_key(key)}", value)


def _pair(key: str, value: Any) -> str:
    return f"{_key(key)} = {_value(value)}"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return repr(value)
    return f"[{', '.join(map(_value, value))}]"
