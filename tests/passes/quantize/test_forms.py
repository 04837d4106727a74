"""Activations and the like on integers: onnxruntime runs them there, and they compute what they did."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.checker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.formats.affine import activation_params
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Quantize
from lpcc.passes.quantize.forms import anchored
from lpcc.pipeline import Context
from lpcc.runtime import Session, TensorSpec, count_kernels, optimised
from lpcc.target import Target
from lpcc.testing.golden import read_model

BETWEEN = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,8,12,12] x) => (float[N,8,12,12] y)
<float[16,8,3,3] w1, float[16] b1, float[8,16,1,1] w2, float[4,16,1,1] w3, float[16,4,1,1] w4, float[16] b4,
 float[16,1,1] slopes, float[1] slope = {{0.25}}, float[16,1,1] steep, float half = {{0.5}}, float six = {{6}},
 float low = {{-1.5}}, float[1,16,1,1] gain>
{{
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)
    {body}
    y = Conv(z, w2)
}}
"""


def made(body, context, target="x86-avx512-vnni", **options):
    model = read_model(BETWEEN.format(body=body))
    rng = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        if tensor.name in ("slopes", "steep"):
            values = rng.uniform(0, 1, (16, 1, 1)) if tensor.name == "slopes" else rng.uniform(-1, 2, (16, 1, 1))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    graph = from_proto(model)
    annotate(graph)
    specs = TensorSpec.inputs_of(model)
    images = rng.normal(0, 1, (12, 8, 12, 12)).astype(np.float32)
    ctx = Context(target=Target.load(target), calibration=Dataset.from_arrays({"x": images}, inputs=specs))
    changes = Quantize(**{"ranges": "minmax", "min_work": 0, **options}).run(graph, ctx)
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    return model, result, changes, {"x": images}


def sqnr(exact, found):
    return 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum())


FORMS = {
    "hard swish": ("z = HardSwish(a)", {"Clip": 1, "com.microsoft::QLinearMul": 1}),
    "squeeze and excite": (
        "p = GlobalAveragePool(a) q = Conv(p, w3) r = Relu(q) s = Conv(r, w4, b4) t = HardSigmoid(s) z = Mul(a, t)",
        {"com.microsoft::QLinearMul": 1, "com.microsoft::QLinearGlobalAveragePool": 1},
    ),
    "sigmoid gate": (
        "p = GlobalAveragePool(a) q = Conv(p, w3) r = Relu(q) s = Conv(r, w4, b4) t = Sigmoid(s) z = Mul(a, t)",
        {"com.microsoft::QLinearMul": 1, "com.microsoft::QLinearSigmoid": 1},
    ),
    "SiLU": ("s = Sigmoid(a) z = Mul(a, s)", {"com.microsoft::QLinearSigmoid": 1, "com.microsoft::QLinearMul": 1}),
    "leaky": ("z = LeakyRelu<alpha=0.1>(a)", {"com.microsoft::QLinearLeakyRelu": 1}),
    "one slope": ("z = PRelu(a, slope)", {"com.microsoft::QLinearLeakyRelu": 1}),
    "slopes": ("z = PRelu(a, slopes)", {"com.microsoft::QLinearMul": 1, "Max": 1}),
    "Relu behind a Concat": (
        "s = Slice(a, i0, i8, i1) t = Slice(a, i8, i16, i1) u = Concat<axis=1>(s, t) z = Relu(u)",
        {},
    ),
    "Clip that others see": ("s = Clip(a, low, six) z = Add(s, a)", {"Clip": 1, "com.microsoft::QLinearAdd": 1}),
    "constant factor": ("z = Mul(gain, a)", {"com.microsoft::QLinearMul": 1}),
    "constant summand": ("z = Add(a, half)", {"com.microsoft::QLinearAdd": 1}),
    "mean": ("p = ReduceMean<axes=[2,3]>(a) z = Add(a, p)", {"com.microsoft::QLinearGlobalAveragePool": 1}),
}


@pytest.mark.parametrize("form", FORMS)
def test_runs_on_integers(context, form):
    body, kernels = FORMS[form]
    for i in (0, 1, 8, 16):
        body = body.replace(f"i{i},", f"c{i},").replace(f"i{i})", f"c{i})")
    constants = "".join(f"c{i} = Constant<value_ints=[{i}]>() " for i in (0, 1, 8, 16)) if "Slice" in body else ""
    model, result, _, feeds = made(constants + body, context)
    counts = count_kernels(optimised(result))
    assert counts.quantize == counts.dequantize == 1  # at the ends
    assert counts.float_convolutions == 0
    for op, count in kernels.items():
        assert counts.by_op[op] == count
    left = {"HardSwish", "HardSigmoid", "PRelu", "Sigmoid", "Relu", "Mul", "Add", "ReduceMean", "LeakyRelu"}
    assert not left & set(counts.by_op)
    exact, plain, fused = (
        Session(m, optimise=optimise).run(feeds)["y"]
        for m, optimise in ((model, False), (result, False), (result, True))
    )
    assert sqnr(exact, plain) > 28
    assert sqnr(exact, fused) > 28


@pytest.mark.parametrize("body", ["z = Tanh(a)", "z = Gelu(a)", "z = PRelu(a, steep)"])
def test_stays_in_float(context, body):
    if "Gelu" in body:
        body = "e = Erf(a) f = Mul(e, a) z = Tanh(f)"
    _, result, _, _ = made(body, context)
    counts = count_kernels(optimised(result))
    assert counts.integer_convolutions == 2
    assert {"Tanh", "PRelu"} & set(counts.by_op)


def test_a_hard_swish_of_what_others_read_stays_in_float(context):
    _, result, changes, _ = made("h = HardSwish(a) z = Add(h, a)", context)
    assert {r.node: r.reason for r in changes.refused}["h"].startswith("others read what this HardSwish reads")
    assert "HardSigmoid" in count_kernels(optimised(result)).by_op


@settings(deadline=None)
@given(st.floats(0, 300), st.sampled_from([np.uint8, np.int8]))
def test_the_least_integer_is_where_hard_swish_ends(high, dtype):
    given_ = activation_params(-3.0, high, np.dtype(dtype))
    params = anchored(given_)
    assert params.low == pytest.approx(-3.0, rel=1e-6)
    assert params.high >= given_.high - 1e-4 * (high + 3)  # which may be less than `high` by half a step
    steps = params.zero_point - np.iinfo(dtype).min  # from -3 to 0
    assert float(params.scale) <= (1 + 1 / steps) * (high + 3) / 255 * 1.0001
    assert np.iinfo(dtype).min <= params.zero_point <= np.iinfo(dtype).max


@pytest.mark.parametrize("target", ["x86-avx512-vnni", "arm-cortex-a76"])
def test_hard_swish_is_exact_for_each_integer(context, target):
    """Beyond the rounding of what it reads, which the convolution does, and of its own result there is no error."""
    _, result, _, feeds = made("z = HardSwish(a)", context, target)
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    probed = onnx.ModelProto()
    probed.CopyFrom(result)
    for name in ("a_dequantized", "z_dequantized"):
        probed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    found = Session(probed, optimise=False).run(feeds)
    x, z = found["a_dequantized"].astype(np.float64), found["z_dequantized"]
    exact = x * np.clip(x / 6 + 0.5, 0, 1)
    low, high = z.min(), z.max()
    assert np.abs(np.clip(exact, low, high) - z).max() <= 0.51 * scales["z_scale"]
