"""``lpcc targets show``: the numbers of one device, each with its source, and how well they fit."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    from lpcc.target import Quality, Target

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A target, or a .toml file.", show_default=False)]

_ELSEWHERE = ("name", "description", "sources", "tables", "quality")
"""Fields of a target that are no rows of its table."""


def show(name: Name) -> None:
    """Show the numbers of a device, their sources, and how well they fit."""
    from lpcc.target import Target

    terminal = Terminal()
    terminal.show(_one(Target.load(name), terminal.width))


def _one(target: Target, width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report.plain import to_plain
    from lpcc.report.table import Column, table

    yield (target.name, "bold")
    yield from textwrap.wrap(target.description, width)
    values = {key: value for key, value in vars(target).items() if key not in _ELSEWHERE}
    found = list(_flat(to_plain(values)))
    sources = list(dict.fromkeys(target.sources.get(path, "") for path, _ in found))
    marks = {source: f"[{number}]" for number, source in enumerate((s for s in sources if s), 1)} | {"": ""}
    rows = [[path, text, marks[target.sources.get(path, "")]] for path, text in found]
    title, *body = table([Column("key"), Column("value", elastic=True), Column("source")], rows, width)
    yield ""
    yield (title, "bold")
    yield from body
    if target.tables.coefficients:
        kernels = ", ".join(sorted({" ".join(key) for key in target.tables.coefficients}))
        yield from textwrap.wrap(f"fitted kernels: {kernels}", width)
    yield ""
    yield ("sources", "bold")
    for source, mark in marks.items():
        yield from textwrap.wrap(f"{mark} {source}", width, subsequent_indent="    ") if mark else ()
    yield ""
    yield ("quality", "bold")
    yield from textwrap.wrap(_quality(target.quality), width)


def _quality(quality: Quality) -> str:
    """How well predictions meet measurements, in a sentence."""
    if quality.median_error_percent is None:
        return quality.compared_with
    return f"median error {quality.median_error_percent:g} % on {quality.networks} networks: {quality.compared_with}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text of every value that is stated."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", str(value).lower() if isinstance(value, bool) else str(value)
