"""The stand-in for 64-bit Arm against whole numbers in Python, and against the real runtime under emulation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc import edit
from lpcc.data import Dataset
from lpcc.emulate import Emulator
from lpcc.formats.affine import Params
from lpcc.graph import from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.runtime.fused import count_kernels, optimised
from lpcc.simulate import stand_in
from lpcc.simulate.arm import FixedPoint, sums_in_fixed_point
from lpcc.simulate.signs import with_activations
from lpcc.target import Target
from lpcc.testing.golden import read_model

Array = np.ndarray[Any, Any]
INT8 = np.dtype(np.int8)

SUM = """
<ir_version: 8, opset_import: ["" : 17]>
net (int8[n] a, int8[n] b) => (int8[n] c)
<float sa = {%s}, int8 za = {%s}, float sb = {%s}, int8 zb = {%s}, float sc = {%s}, int8 zc = {%s},
 float least = {0.0}, float most = {100.0}, float half = {0.5}>
{
  x = DequantizeLinear(a, sa, za)
  y = DequantizeLinear(b, sb, zb)
  s = Add(x, y)
  %s
  c = QuantizeLinear(%s, sc, zc)
}
"""


def ops(graph: Any) -> Counter[str]:
    return Counter(edit.op(node) for node in graph.nodes)


def in_python(a: int, b: int, params: list[Params], sum_: FixedPoint) -> int:
    """One sum in whole numbers, halves away from zero."""
    total = (a - params[0].zero_point) * sum_.a_factor + (b - params[1].zero_point) * sum_.b_factor
    half = 1 << (sum_.shift - 1)
    rounded = (total + half) >> sum_.shift if total >= 0 else -((-total + half) >> sum_.shift)
    return max(-128, min(127, rounded + params[2].zero_point))


@given(
    scales=st.tuples(*[st.floats(1e-3, 10)] * 3),
    zeros=st.tuples(*[st.integers(-128, 127)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_equal_whole_numbers(scales: tuple[float, ...], zeros: tuple[int, ...], seed: int) -> None:
    params = [Params(np.float32(scale), zero, INT8) for scale, zero in zip(scales, zeros, strict=True)]
    numbers = [word for p in params for word in (repr(float(p.scale)), str(p.zero_point))]
    model = read_model(SUM % (*numbers, "", "s"))
    graph = from_proto(model)
    sum_ = FixedPoint.of(*params)
    assert sums_in_fixed_point(graph) == (sum_ is not None)
    if sum_ is None:
        return
    assert "Add" in ops(graph)
    assert "QuantizeLinear" not in ops(graph)
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (2, 64)).astype(np.int8)
    found = Session(to_proto(graph)).run({"a": a, "b": b})["c"]
    assert found.tolist() == [in_python(int(x), int(y), params, sum_) for x, y in zip(a, b, strict=True)]


def test_the_factors_by_hand() -> None:
    """Scales 2 and 1 into 4: halves and quarters, the larger in 22 bits."""
    sum_ = FixedPoint.of(*(Params(np.float32(scale), 0, INT8) for scale in (2.0, 1.0, 4.0)))
    assert sum_ == FixedPoint(a_factor=1 << 21, b_factor=1 << 20, shift=22)
    far = [Params(np.float32(scale), 0, INT8) for scale in (1.0, 1e-6, 1.0)]
    assert FixedPoint.of(*far) is None


@pytest.mark.parametrize(
    ("tail", "zero", "rewritten"),
    [
        ("t = Relu(s)", "-128", True),
        ("t = Relu(s)", "-100", False),  # the Relu does something that clipping does not
        ("t = Clip(s, least, most)", "-128", True),
        ("t = Clip(s, least, half)", "-128", False),
        ("t = Sigmoid(s)", "-128", False),
    ],
)
def test_an_activation_behind_a_sum(tail: str, zero: str, *, rewritten: bool) -> None:
    model = read_model(SUM % ("0.1", "0", "0.2", "3", "0.3", zero, tail, "t"))
    graph = from_proto(model)
    assert sums_in_fixed_point(graph) == rewritten
    feeds = {name: np.arange(-128, 128, dtype=np.int8)[::step].copy() for name, step in (("a", 1), ("b", -1))}
    before, after = (Session(one).run(feeds)["c"] for one in (model, to_proto(graph)))
    assert np.abs(before.astype(int) - after).max() <= 1


def test_a_sum_that_others_read_stays(for_arm: onnx.ModelProto) -> None:
    graph = from_proto(read_model(SUM.replace("(int8[n] c)", "(int8[n] c, float[n] s)") % (*["0.1", "0"] * 3, "", "s")))
    assert sums_in_fixed_point(graph) == 0
    assert sums_in_fixed_point(from_proto(for_arm)) == 2


def test_activations_become_unsigned(for_arm: onnx.ModelProto, samples: Array) -> None:
    graph = from_proto(for_arm)
    assert with_activations(graph, "u8")
    unsigned = to_proto(graph)
    quantizers = [node for node in graph.nodes if edit.op(node) == "QuantizeLinear"]
    assert quantizers
    assert all(node.inputs[2].dtype == np.uint8 for node in quantizers)
    plain = [Session(model, optimise=False).run({"image": samples})["logits"] for model in (for_arm, unsigned)]
    assert (plain[0] == plain[1]).all()
    assert with_activations(graph, "s8")
    assert (Session(to_proto(graph), optimise=False).run({"image": samples})["logits"] == plain[0]).all()
    assert not with_activations(graph, "s8")  # they are


def test_integers_that_leave_the_graph_stay_signed() -> None:
    graph = from_proto(read_model(SUM % (*["0.1", "0"] * 3, "", "s")))
    assert not with_activations(graph, "u8")
    assert "UINT8" not in onnx.printer.to_text(to_proto(graph)).upper()


def test_pads_of_integers_move_along() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4] a) => (float[1,6] c)
    <float s = {0.5}, int8 z = {-3}, int64[4] pads = {0,1,0,1}, int8 fill = {-3}>
    {
      q = QuantizeLinear(a, s, z)
      p = Pad(q, pads, fill)
      c = DequantizeLinear(p, s, z)
    }
    """
    feeds = {"a": np.array([[-1.0, 0.2, 3.0, 70.0]], dtype=np.float32)}
    graph = from_proto(read_model(text))
    assert with_activations(graph, "u8")
    found = Session(to_proto(graph)).run(feeds)["c"]
    assert found.tolist() == Session(read_model(text)).run(feeds)["c"].tolist()


def test_more_of_it_runs_on_integers_than_without(for_arm: onnx.ModelProto) -> None:
    """What onnxruntime leaves in float here by itself."""
    here, there = (
        count_kernels(optimised(model)).integer_convolutions
        for model in (for_arm, stand_in(for_arm, "arm", "x86-vnni"))
    )
    assert there == 5 > here


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
def test_equal_to_the_real_runtime(emulator: Emulator, for_arm: onnx.ModelProto, samples: Array, cpu: str) -> None:
    feeds = [{"image": image[None]} for image in samples]
    with emulator.plain_machine(cpu) as machine:
        there = [found["logits"] for found in machine.runs(for_arm, feeds)]
    session = Session(stand_in(for_arm, "arm", "x86-vnni"), signed=True)
    for one, expected in zip(feeds, there, strict=True):
        np.testing.assert_allclose(session.run(one)["logits"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10_resnet20_jpegft", "mobilenetv2_imagenet", "fastestdet_coco"])
def test_real_networks_are_equal(zoo: Any, emulator: Emulator, name: str) -> None:
    graph = load(zoo.model(name))
    ctx = Context(target=Target.load("arm-cortex-a72"), calibration=Dataset.from_arrays(zoo.calib(name, 8)))
    run_pipeline(graph, Pipeline.parse("exact,quantize{ranges=mse}"), ctx)
    model = to_proto(graph)
    images = zoo.eval(name, 2)[0]
    feeds = [{key: value[i : i + 1] for key, value in images.items()} for i in range(2)]
    with emulator.plain_machine("cortex-a72") as machine:
        there = machine.runs(model, feeds)
    session = Session(stand_in(model, "arm", "x86-vnni"), signed=True)
    for one, expected in zip(feeds, there, strict=True):
        for output, value in session.run(one).items():
            np.testing.assert_allclose(value, expected[output], rtol=1e-5, atol=1e-5 * np.abs(expected[output]).max())
