from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto
from lpcc.passes.quantize.lowering import lower
from lpcc.pipeline import Changes
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[2,3,5,5] x, float[2,3] v) => (float y, float t)
<float[4,3,1,1] w, float[4] b, float[4,1,1] slopes, float[1] slope = {{-0.5}}, float[4,1,1] equal, float[3,4] m>
{{
    t = Gemm(v, m)
    a = Conv(x, w, b)
    {body}
}}
"""
SLOPES = np.linspace(0, 1, 4, dtype=np.float32).reshape(4, 1, 1)


def ops(body, runtime="onnxruntime", slopes=SLOPES):
    model = read_model(MODEL.format(body=body))
    for tensor in model.graph.initializer:
        if tensor.name in ("slopes", "equal"):
            values = slopes if tensor.name == "slopes" else np.full((4, 1, 1), 0.3, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    graph = from_proto(model)
    annotate(graph)
    changes = Changes()
    lower(graph, runtime, changes)
    result = to_proto(graph)
    rng = np.random.default_rng(0)
    feeds = {n: rng.normal(0, 3, s).astype(np.float32) for n, s in (("x", (2, 3, 5, 5)), ("v", (2, 3)))}
    for name, value in Session(model, optimise=False).run(feeds).items():
        np.testing.assert_allclose(Session(result, optimise=False).run(feeds)[name], value, rtol=1e-5, atol=1e-6)
    return [node.op_type for node in result.graph.node][2:], changes


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("y = HardSigmoid<alpha=0.3, beta=0.4>(a)", ["Clip"]),
        ("y = HardSigmoid(a)", ["Clip"]),
        ("z = HardSigmoid(a) y = Add(z, a)", ["HardSigmoid", "Add"]),
        ("z = Tanh(a) y = HardSigmoid(z)", ["Tanh", "HardSigmoid"]),
        ("y = PRelu(a, slopes)", ["Mul", "Max"]),
        ("y = PRelu(a, slope)", ["LeakyRelu"]),
        ("y = PRelu(a, equal)", ["LeakyRelu"]),
        ("y = ReduceMean<axes=[2,3]>(a)", ["GlobalAveragePool"]),
        ("y = ReduceMean<axes=[-1,2]>(a)", ["GlobalAveragePool"]),
        ("y = ReduceMean<axes=[2,3], keepdims=0>(a)", ["ReduceMean"]),
        ("y = ReduceMean<axes=[1]>(a)", ["ReduceMean"]),
    ],
)
def test_is_exact(body, found):
    made, changes = ops(body)
    assert made == found
    assert bool(changes) == (found[0] in ("Clip", "Mul", "LeakyRelu", "GlobalAveragePool"))


def test_gemm():
    made, _ = ops("z = Gemm(v, m) y = HardSigmoid(z)")
    assert made == ["Gemm", "Clip"]


def test_slopes_beyond_one_or_below_zero():
    made, changes = ops("y = PRelu(a, slopes)", slopes=2 * SLOPES)
    assert made == ["PRelu"]
    assert "slopes" in changes.refused[0].reason


def test_other_runtimes_keep_their_operators():
    made, _ = ops("z = PRelu(a, slopes) y = ReduceMean<axes=[2,3]>(z)", "cmsis-nn")
    assert made == ["PRelu", "ReduceMean"]
