"""``lpcc print``: a model as text."""

from __future__ import annotations

import sys

from lpcc.cli import options


def print_model(model: options.Model) -> None:
    """Print a model as text.

    The same text for the same model, types included, large weights left out.
    """
    from lpcc.analysis.types import annotate
    from lpcc.graph import load
    from lpcc.text import print_graph

    graph = load(model)
    annotate(graph)
    sys.stdout.write(print_graph(graph))
