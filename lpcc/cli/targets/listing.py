"""``lpcc targets list``: the devices that there are."""

from __future__ import annotations

from collections.abc import Iterator

from lpcc.cli.terminal import Terminal


def listing() -> None:
    """List the devices; what `lpcc targets` alone does."""
    terminal = Terminal()
    terminal.show(_all(terminal.width))


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
