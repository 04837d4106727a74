"""Layers by name: what patterns in the options of a pass stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lpcc import edit
from lpcc.errors import UsageError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.pipeline.base import Pass
    from lpcc.pipeline.context import Context


def matching(names: Iterable[str], patterns: Iterable[str], whose: str) -> set[str]:
    """The names that are among `patterns` or fit one, in which ``*`` and ``?`` stand for anything.

    `whose` says in messages what asks: ``quantize: keep``.

    Raises:
        UsageError: a pattern fits none of them; the message has the nearest names.
    """
    known = list(dict.fromkeys(names))
    found: set[str] = set()
    for pattern in patterns:
        mine = {name for name in known if name == pattern} or {name for name in known if fnmatchcase(name, pattern)}
        if not mine:
            close = get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = f"the nearest are {', '.join(f'`{name}`' for name in close)}" if close else "no name comes near"
            raise UsageError(
                f"{whose} names `{pattern}`, which no node of the graph is called: {hint}; `lpcc print` lists them"
            )
        found |= mine
    return found


def can_skip(item: Pass) -> bool:
    """Whether a pass has the option `skip`, for layers that it leaves alone."""
    return any(option.name == "skip" for option in fields(item))


def with_names(item: Pass, graph: gs.Graph, ctx: Context) -> Pass:
    """The pass with the patterns in its option `skip` replaced by the names of the nodes that they fit.

    A layer may be called as it was before its weights were rounded. Those that the guard took back
    (``ctx.returned``) need not be there any more.

    Raises:
        UsageError: a name or pattern fits no node.
    """
    if not can_skip(item) or not item.skip:  # type: ignore[attr-defined]
        return item
    asked: tuple[str, ...] = item.skip  # type: ignore[attr-defined]
    graphs = [graph] if ctx.unquantized is None else [graph, ctx.unquantized]
    names = [edit.label(node) for each in graphs for scope in edit.graphs(each) for node in scope.nodes]
    skip = []
    for wish in asked:
        skip += [wish] if wish in ctx.returned else sorted(matching(names, [wish], f"{item.name}: skip"))
    return item if tuple(skip) == asked else replace(item, skip=tuple(dict.fromkeys(skip)))  # type: ignore[call-arg]
