"""``lpcc targets show``: the numbers of one device, each with its source, and how well they fit."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    from lpcc.target import Target

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A target, or a .toml file.", show_default=False)]


def show(name: Name) -> None:
    """Show the numbers of a device, their sources, and how well they fit."""
    from lpcc.target import Target

    terminal = Terminal()
    terminal.show(_one(Target.load(name), terminal.width))


def _one(target: Target, width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report.numbers import quality, stated
    from lpcc.report.table import Column, table

    yield (target.name, "bold")
    yield from textwrap.wrap(target.description, width)
    found = stated(target)
    sources = [source for source in dict.fromkeys(value.source for value in found) if source]
    marks = {source: f"[{number}]" for number, source in enumerate(sources, 1)}
    rows = [[value.path, value.text, marks.get(value.source, "")] for value in found]
    title, *body = table([Column("key"), Column("value", elastic=True), Column("source")], rows, width)
    yield ""
    yield (title, "bold")
    yield from body
    if target.tables.rows:
        kernels = ", ".join(sorted({" ".join(key) for key in target.tables.rows}))
        yield from textwrap.wrap(f"fitted kernels: {kernels}", width)
    yield ""
    yield ("sources", "bold")
    for source, mark in marks.items():
        yield from textwrap.wrap(f"{mark} {source}", width, subsequent_indent="    ")
    yield ""
    yield ("quality", "bold")
    yield from textwrap.wrap(quality(target.quality), width)
