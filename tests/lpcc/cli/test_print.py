from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lpcc.analysis.types import annotate
from lpcc.graph import load
from lpcc.text import print_graph


def test_prints_the_text_of_the_model_with_types(lpcc: Callable[..., Any], model: Path) -> None:
    graph = load(model)
    annotate(graph)
    done = lpcc("print", model)
    assert (done.code, done.out) == (0, print_graph(graph))
    assert "float[N,8,1,1] g = GlobalAveragePool(i)" in done.out
