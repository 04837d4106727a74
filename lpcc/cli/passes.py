"""``lpcc passes``: the passes that there are, and what one of them does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    from lpcc.pipeline import Pass

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="A pass or a named pipeline.", show_default=False)]


def passes(name: Name = None) -> None:
    """List the passes and pipelines, or explain the one named."""
    from lpcc.errors import UsageError
    from lpcc.pipeline.known import known_passes, named_pipelines
    from lpcc.pipeline.syntax import nearest

    terminal = Terminal()
    known, named = known_passes(), named_pipelines()
    if name is None:
        terminal.show(_all(known, named, terminal.width))
    elif name in known:
        terminal.show(_one(known[name], terminal.width))
    elif name in named:
        terminal.show([(name, "bold"), "A named pipeline, which runs:", *(f"  {p}" for p in _members(named[name]))])
    else:
        raise UsageError(f"unknown pass `{name}`; {nearest(name, [*known, *named])}")


def _all(known: dict[str, type[Pass]], named: dict[str, str], width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report.table import Column, table

    rows = [[name, kind.fidelity.value, _needs(kind), _doc(kind)[0]] for name, kind in sorted(known.items())]
    columns = [Column("pass"), Column("fidelity", drop=1), Column("needs", drop=2), Column("what", elastic=True)]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    yield from body
    if named:
        title, *body = table([Column("pipeline"), Column("runs", elastic=True)], sorted(named.items()), width)
        yield ""
        yield (title, "bold")
        yield from body


def _one(kind: type[Pass], width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.pipeline.syntax import describe, options_of
    from lpcc.report.table import Column, table

    yield (f"{kind.name} ({kind.fidelity.value}{f'; needs {_needs(kind)}' if kind.needs else ''})", "bold")
    yield ""
    yield from _doc(kind)
    found = options_of(kind)
    if found:
        rows = [[name, _default(default), describe(accepted)] for name, (accepted, default) in found.items()]
        title, *body = table([Column("option"), Column("default"), Column("takes", elastic=True)], rows, width)
        yield ""
        yield (title, "bold")
        yield from body


def _members(text: str) -> list[str]:
    from lpcc.pipeline import Pipeline

    return [str(item) for item in Pipeline.parse(text).items]


def _needs(kind: type[Pass]) -> str:
    return ", ".join(sorted(need.value for need in kind.needs))


def _doc(kind: type[Pass]) -> list[str]:
    import inspect

    return (inspect.getdoc(kind) or "").splitlines() or [""]


def _default(value: Any) -> str:
    from lpcc.pipeline.syntax import format_value

    return "must be given" if value is MISSING else format_value(value)
