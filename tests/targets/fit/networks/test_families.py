from __future__ import annotations

import pytest

from lpcc.analysis.macs import node_macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.targets.fit.networks import mobilenets, nasbench201, resnets, shufflenets
from lpcc.targets.fit.networks.qdq import quantized

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"


def _macs(model: object) -> int:
    graph = from_proto(model)  # type: ignore[arg-type]
    annotate(graph)
    shapes = bind(graph)
    return sum(node_macs(node, shapes) for node in graph.nodes)


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (mobilenets.mobilenet_v2(224, 1.0), 300),  # as published
        (mobilenets.mobilenet_v3_small(224, 1.0), 56),
        (shufflenets.shufflenet_v2(224, 0.5), 41),
        (shufflenets.shufflenet_v2(224, 1.0), 146),
        (resnets.resnet18(224, 1.0), 1814),
        (resnets.squeezenet(224), 349),
    ],
    ids=lambda value: value if isinstance(value, int) else value.graph.name,
)
def test_as_large_as_published(model: object, millions: int) -> None:
    assert _macs(model) == pytest.approx(millions * 1e6, rel=0.06)


def test_a_cell_of_nas_bench_201() -> None:
    model = nasbench201.network(CELL)
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("Conv") == 1 + 15 * 3 + 2 * 3
    assert ops.count("AveragePool") == 15 + 2
    assert ops.count("Mul") == 15
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10


@pytest.mark.parametrize("arch", ["", "|none~0|", CELL.replace("none", "nothing")])
def test_a_text_that_is_no_cell(arch: str) -> None:
    with pytest.raises(ValueError, match="NAS-Bench-201"):
        nasbench201.network(arch)


def test_halves_are_cut_in_integers_too() -> None:
    model = quantized(shufflenets.shufflenet_v2(64, 0.5))
    split = next(node for node in model.graph.node if node.op_type == "Split")
    readers = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.input}
    assert set(split.output) <= readers
