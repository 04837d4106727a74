"""``lpcc targets``: the devices that lpcc knows, and the numbers of one of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    from lpcc.target import Target

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME|FILE]", help="A target, or a .toml file.", show_default=False)
]

_ELSEWHERE = ("name", "description", "sources", "tables", "quality")
"""Fields of a target that are no rows of its table."""


def targets(name: Name = None) -> None:
    """List the devices, or the numbers of the one named.

    Each number with its source.
    """
    from lpcc.target import Target

    terminal = Terminal()
    if name is None:
        terminal.show(_all(terminal.width))
    else:
        terminal.show(_one(Target.load(name), terminal.width))


def _all(width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report.table import Column, table
    from lpcc.target import Target

    found = [(name, Target.load(name)) for name in Target.names()]
    rows = [
        [name, target.runtime, target.int8.scheme if target.int8 else "", target.pipeline, target.description]
        for name, target in found
    ]
    columns = [
        Column("target"),
        Column("runtime", drop=2),
        Column("int8"),
        Column("pipeline", drop=1),
        Column("what", elastic=True),
    ]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    yield from body


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
    yield from textwrap.wrap(f"Predictions against measurements: {target.quality.compared_with}", width)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text of every value that is stated."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", str(value).lower() if isinstance(value, bool) else str(value)
