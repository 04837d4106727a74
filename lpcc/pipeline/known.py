"""The passes and named pipelines that there are: the built-in ones and those of installed plugins.

This is the one place of the framework that imports `lpcc.passes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lpcc.errors import UsageError
from lpcc.pipeline.base import Pass


@cache
def known_passes() -> dict[str, type[Pass]]:
    """All passes by name.

    Raises:
        UsageError: a plugin cannot be loaded, is no pass, or has the name of another pass.
    """
    from lpcc.passes import BUILTIN

    return join(BUILTIN, entry_points(group="lpcc.passes"))


def join(builtin: Iterable[type[Pass]], plugins: Iterable[EntryPoint]) -> dict[str, type[Pass]]:
    """Built-in passes and those of plugins in one table; see `known_passes`."""
    known = {kind.name: kind for kind in builtin}
    for plugin in plugins:
        where = f"plugin `{plugin.name}` ({plugin.value})"
        try:
            kind = plugin.load()
        except Exception as error:
            raise UsageError(f"{where}: cannot be loaded: {error}") from error
        if not (inspect.isclass(kind) and issubclass(kind, Pass)):
            raise UsageError(f"{where}: is not a subclass of lpcc.Pass")
        _add(known, kind, where)
    return known


def including(known: dict[str, type[Pass]], more: Iterable[type[Pass]]) -> dict[str, type[Pass]]:
    """The table `known` with `more` passes in it.

    Raises:
        UsageError: one of them has the name of another pass.
    """
    table = dict(known)
    for kind in more:
        _add(table, kind, kind.__qualname__)
    return table


def named_pipelines() -> dict[str, str]:
    """Text of the named pipelines, by name."""
    from lpcc.passes import NAMED

    return dict(NAMED)


def presets() -> tuple[str, ...]:
    """Names of the named pipelines that stand for `quantize` in a target's own pipeline."""
    from lpcc.passes import PRESETS

    return PRESETS


def _add(known: dict[str, type[Pass]], kind: type[Pass], where: str) -> None:
    """Add a pass, which `where` brings, to a table; raise UsageError if its name means something else."""
    if kind.name in named_pipelines():
        raise UsageError(f"{where}: the pass name `{kind.name}` is that of a named pipeline")
    taken = known.setdefault(kind.name, kind)
    if taken is not kind:
        raise UsageError(f"{where}: the pass name `{kind.name}` is taken by {taken.__module__}")
