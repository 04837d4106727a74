"""Kernels of a graph whose sizes change, measured again."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc.analysis.kernels import Kernel, Resizable, kernels
from lpcc.analysis.shapes import Shapes, bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.testing.golden import read_model

TEXT = """<ir_version: 10, opset_import: ["": 17]>
g (float[1,16,8,8] x) => (float[1,8,8,8] y) <float[CH,16,1,1] v, float[8,CH,1,1] w> {
    a = Conv (x, v)
    b = Relu (a)
    y = Conv (b, w)
}"""


def network(channels):
    text = TEXT.replace("CH", str(channels))
    graph = from_proto(read_model(text))
    annotate(graph)
    return graph


def seen(found):
    """What two graphs' kernels can be compared by."""
    plain = [f.name for f in fields(Kernel) if f.name not in ("node", "nodes", "inputs", "outputs")]
    sizes = [tuple(o.nbytes for o in (*k.inputs, *k.outputs)) for k in found]
    return [[getattr(k, name) for name in plain] for k in found], sizes


@pytest.mark.parametrize("runtime", ["onnxruntime", "ncnn", "cmsis-nn"])
def test_other_sizes_give_the_kernels_of_the_other_graph(runtime):
    graph = network(32)
    sizes = dict(bind(graph).found)
    resizable = Resizable(graph, Shapes(sizes), runtime, ("x86", "avx512"))
    for channels in (32, 30, 16, 32):
        resized: list[gs.Tensor] = []
        for node in graph.nodes:
            for tensor in (*node.inputs, *node.outputs):
                if tensor.name in ("v", "w"):
                    tensor.values = np.zeros((channels, 16, 1, 1) if tensor.name == "v" else (8, channels, 1, 1), "f")
                    resized.append(tensor)
                elif tensor.name in ("a", "b"):
                    sizes[id(tensor)] = (1, channels, 8, 8)
                    tensor.shape = [1, channels, 8, 8]
                    resized.append(tensor)
        other = kernels(network(channels), None, runtime, ("x86", "avx512"))
        assert seen(resizable.kernels(resized)) == seen(other)
        assert seen(resizable.kernels()) == seen(other)


def test_totals_are_those_of_the_estimate():
    graph, model = network(32), CostModel(Target.load("x86-avx512-vnni"))
    cost = model.estimate(graph)
    totals = model.totals(model.kernels(graph, bind(graph)), cost.weight_bytes)
    assert all(getattr(totals, f.name) == getattr(cost, f.name) for f in fields(totals))
