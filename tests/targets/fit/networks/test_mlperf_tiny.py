from __future__ import annotations

import pytest

from lpcc.analysis.macs import node_macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.targets.fit.networks import mlperf_tiny


@pytest.mark.parametrize(
    ("name", "products"),
    # as Arm's compiler counts the reference models, less its count for average pooling and softmax
    [
        ("ad", 264192),
        ("ic", 12505748 - 64 * 64 - 2 * 10),
        ("kws", 2664792 - 125 * 64 - 2 * 12),
        ("vww", 7491972 - 9 * 256 - 2 * 2),
    ],
)
def test_multiply_accumulates_of_the_reference_models(name: str, products: int) -> None:
    graph = from_proto(mlperf_tiny.NETWORKS[name]())
    annotate(graph)
    shapes = bind(graph)
    assert sum(node_macs(node, shapes) for node in graph.nodes) == products


def test_weights_are_the_same_each_time() -> None:
    first, second = (mlperf_tiny.keyword_spotting().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
