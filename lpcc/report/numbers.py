"""The numbers of a target in words, each with its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lpcc.report.plain import to_plain
from lpcc.target import Quality, Target

_ELSEWHERE = ("name", "description", "sources", "tables", "quality")
"""Fields of a target that are no rows of its table."""


@dataclass(frozen=True)
class Stated:
    """A value of a target file: its dotted path, its text, and where it comes from (empty for words)."""

    path: str
    text: str
    source: str


def stated(target: Target) -> list[Stated]:
    """All values of a target, those that it inherits included, in the order of the schema."""
    values = {key: value for key, value in vars(target).items() if key not in _ELSEWHERE}
    return [Stated(path, text, target.sources.get(path, "")) for path, text in _flat(to_plain(values))]


def quality(found: Quality) -> str:
    """How well predictions meet measurements, in a sentence."""
    if found.median_error_percent is None:
        return found.compared_with
    return f"median error {found.median_error_percent:g} % on {found.networks} networks: {found.compared_with}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text of every value that is stated."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", str(value).lower() if isinstance(value, bool) else str(value)
