from __future__ import annotations

import numpy as np
import pytest

from lpcc.analysis.quantized import quantized_layers
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec
from lpcc.target import Target
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("axis", ["channels", "places"])
def test_means_of_channels_pass_a_reshape_only_where_it_keeps_them(axis):
    """Behind a Reshape from (1, 16, 4, 4) to (16, 16) the inputs of a Gemm are places; their means are not measured."""
    before = "GlobalAveragePool(r)" if axis == "channels" else "Identity(r)"
    to = "{1, 16}" if axis == "channels" else "{16, 16}"
    model = read_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[1,3,6,6] x) => (float[A,4] y)
        <float[16,3,3,3] w, float[16] c, float[4,16] v, float[4] b, int64[2] s = {to}>
        {{ a = Conv(x, w, c)  r = Relu(a)  p = {before}  f = Reshape(p, s)  y = Gemm<transB = 1>(f, v, b) }}"""
    )
    images = np.random.default_rng(0).standard_normal((32, 3, 6, 6)).astype(np.float32)
    data = Dataset.from_arrays({"x": images}, inputs=TensorSpec.inputs_of(model))
    graph, ctx = from_proto(model), Context(target=Target.load("x86-avx512-vnni"), calibration=data)
    run_pipeline(graph, [Quantize(ranges="minmax", min_work=0)], ctx)
    Session(to_proto(graph))
    (layer,) = (layer for layer in quantized_layers(graph) if layer.node.op == "Gemm")
    (given,) = (t.values for node in ctx.unquantized.nodes if node.op == "Gemm" for t in node.inputs[2:])
    integers, scales = (np.asarray(t.values, dtype=np.float64) for t in layer.bias.inputs[:2])
    moved = np.abs(integers * scales - given) > 0.6 * scales  # beyond rounding
    assert moved.any() == (axis == "channels")
