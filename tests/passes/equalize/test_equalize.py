from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import lpcc
from lpcc.analysis.types import annotate
from lpcc.calibrate.channels import measure_channels
from lpcc.data import Dataset
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.passes.equalize import Equalize
from lpcc.passes.equalize.scales import room
from lpcc.passes.equalize.tied import ties
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.target import Target
from lpcc.testing import assert_equivalent, check_golden, golden_cases

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("case", golden_cases("golden/equalize"), ids=lambda path: path.stem)
def test_golden(case, request):
    check_golden(case, update=bool(request.config.getoption("--update-golden")))


class _Net:
    """A network that is written node by node; channels are laid unevenly, so that there is much to equalise."""

    def __init__(self, seed: int, channels: int = 3, size: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.x, self.channels, self.size = "x", channels, size
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, size])

    def constant(self, values: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, group: int = 1, stride: int = 1) -> str:
        w = self.rng.standard_normal((outputs, inputs // group, kernel, kernel)) / np.sqrt(inputs / group) / kernel
        w *= np.exp(self.rng.uniform(-2, 2, (outputs, 1, 1, 1)))
        b = self.constant(self.rng.standard_normal(outputs))
        pad = kernel // 2
        return self.add("Conv", [x, self.constant(w), b], group=group, pads=[pad] * 4, strides=[stride] * 2)

    def model(self, y: str) -> onnx.ModelProto:
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [self.input], [output], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_BLOCKS = ("conv", "depthwise", "residual", "concat", "pool", "split", "prelu", "shuffle", "pad", "scale")


def _grow(net: _Net, x: str, channels: int, block: str) -> tuple[str, int]:
    """Put a block behind tensor `x`."""
    active = str(net.rng.choice(["Relu", "LeakyRelu", "Identity"]))
    if block == "conv":
        outputs = int(net.rng.integers(2, 6))
        return net.add(active, [net.conv(x, channels, outputs, kernel=3)]), outputs
    if block == "depthwise":
        return net.add(active, [net.conv(x, channels, channels, 3, group=channels)]), channels
    if block == "residual":
        inner = net.conv(net.add("Relu", [net.conv(x, channels, 4)]), 4, channels)
        return net.add(active, [net.add("Add", [inner, x])]), channels
    if block == "concat":
        parts = [net.conv(x, channels, 2), net.conv(x, channels, 3, kernel=3)]
        return net.add(active, [net.add("Concat", parts, axis=1)]), 5
    if block == "pool":
        op = str(net.rng.choice(["MaxPool", "AveragePool"]))
        return net.add(op, [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), channels
    if block == "split":
        name = f"t{len(net.nodes)}"
        sizes = net.constant(np.zeros(0))  # to be replaced: Split's sizes are integers
        net.weights[-1] = numpy_helper.from_array(np.asarray([1, channels - 1], np.int64), sizes)
        net.nodes.append(helper.make_node("Split", [x, sizes], [name, f"{name}_rest"], name=name, axis=1))
        return net.add("Concat", [f"{name}_rest", name], axis=1), channels
    if block == "prelu":
        return net.add("PRelu", [x, net.constant(net.rng.uniform(-1, 1, (channels, 1, 1)))]), channels
    if block == "shuffle":
        order = net.constant(np.zeros(0))
        net.weights[-1] = numpy_helper.from_array(net.rng.permutation(channels), order)
        return net.add("Gather", [x, order], axis=1), channels
    if block == "pad":
        ends = net.constant(np.zeros(0))
        net.weights[-1] = numpy_helper.from_array(np.asarray([0, 1, 0, 0, 0, 1, 0, 0]), ends)
        return net.add("Pad", [x, ends]), channels + 2
    return net.add("Mul", [x, net.constant(net.rng.uniform(0.5, 2, (channels, 1, 1)))]), channels


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    blocks=st.lists(st.sampled_from(_BLOCKS), min_size=1, max_size=6),
    head=st.booleans(),
    by=st.sampled_from(["weights", "noise"]),
)
def test_outputs_are_equal_where_no_clip_stands(seed, blocks, head, by):
    net = _Net(seed)
    x, channels = net.conv("x", 3, 4), 4
    for block in blocks:
        x, channels = _grow(net, x, channels, block)
    x = net.conv(x, channels, 3)
    if head:
        flat = net.add("Flatten", [net.add("Relu", [x])])
        x = net.add("Gemm", [flat, net.constant(net.rng.standard_normal((3 * 64, 5)))])
    before = net.model(x)
    graph = from_proto(before)
    data = Dataset.from_arrays({"x": net.rng.standard_normal((4, 3, 8, 8)).astype(np.float32)})
    (record,) = run_pipeline(graph, [Equalize(by=by)], Context(calibration=data))
    assert record.changes or by == "noise"  # it is for by=noise to decide that nothing is to be gained
    assert_equivalent(before, to_proto(graph))


def _largest(model: onnx.ModelProto, name: str, axis: int) -> Array:
    weights = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
    return np.abs(np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)).max(axis=1)


def test_weights_before_and_after_have_one_range():
    net = _Net(0)
    model = net.model(net.conv(net.add("Relu", [net.conv("x", 3, 8)]), 8, 2))
    graph = from_proto(model)
    run_pipeline(graph, [Equalize(by="weights")], Context())
    after = to_proto(graph)
    first, second = (node.input[1] for node in after.graph.node if node.op_type == "Conv")
    np.testing.assert_allclose(_largest(after, first, 0), _largest(after, second, 1), rtol=1e-5)
    assert not np.allclose(_largest(model, first, 0), _largest(model, second, 1), rtol=0.1)


def _clipped(seed: int = 0) -> tuple[onnx.ModelProto, _Net]:
    """Two layers around a ReLU6 that some channels fill and some do not."""
    net = _Net(seed)
    zero, six = net.constant(np.float32(0)), net.constant(np.float32(6))
    clip = net.add("Clip", [net.conv("x", 3, 16), zero, six])
    return net.model(net.conv(net.add("Clip", [net.conv(clip, 16, 16, 3, group=16), zero, six]), 16, 4)), net


@pytest.mark.parametrize("seed", range(5))
def test_clip_does_on_the_images_what_it_did(seed):
    model, net = _clipped(seed)
    images = net.rng.standard_normal((16, 3, 8, 8)).astype(np.float32)
    graph = from_proto(model)
    context = Context(calibration=Dataset.from_arrays({"x": images}))
    (record,) = run_pipeline(graph, [Equalize(by="weights")], context)
    assert record.changes
    assert_equivalent(model, to_proto(graph), {"x": images})


def test_channel_that_fills_the_clip_is_held_and_a_quiet_one_is_not():
    model, net = _clipped()
    data = Dataset.from_arrays({"x": net.rng.standard_normal((16, 3, 8, 8)).astype(np.float32)})
    graph = from_proto(model)
    run_pipeline(graph, [], Context())  # types
    tied = ties(graph)
    found = measure_channels(model, [limit.node.inputs[0].name for limit in tied.limits], data)
    allowed = room(tied, found)
    first = tied.limits[0]
    reach = found[first.node.inputs[0].name].high
    assert (reach >= 6).any()
    assert not allowed.free[first.channels[reach >= 6]].any()
    quiet = reach < 3
    assert allowed.free[first.channels[quiet]].any()
    assert (reach / allowed.least[first.channels])[allowed.free[first.channels]].max() <= 6


def _with(op: str, **attributes: Any) -> onnx.ModelProto:
    net = _Net(1)
    return net.model(net.conv(net.add(op, [net.conv("x", 3, 4)], **attributes), 4, 2))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_with("Sigmoid"), "Sigmoid is not homogeneous"),
        (_with("HardSwish"), "HardSwish is not homogeneous"),
        (_with("Softmax", axis=1), "Softmax is not homogeneous"),
        (_with("Cast", to=TensorProto.FLOAT), "Cast is not homogeneous"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_homogeneous_keeps_its_scale(model, reason):
    graph = from_proto(model)
    (record,) = run_pipeline(graph, [Equalize(by="weights")], Context())
    assert not record.changes
    assert any(reason in refusal.reason for refusal in record.changes.refused)
    assert to_proto(graph).graph.initializer == to_proto(from_proto(model)).graph.initializer


def test_operands_of_other_rank_are_not_tied_by_as_many_channels():
    net = _Net(0, channels=8)
    net.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8])
    a = net.add("Relu", [net.conv("x", 8, 8)])
    pooled = net.add("GlobalAveragePool", [net.add("Relu", [net.conv(a, 8, 8)])])
    along_width = net.add("Add", [a, net.add("Flatten", [pooled])])
    model = net.model(net.conv(along_width, 8, 4))
    graph = from_proto(model)
    annotate(graph)
    Equalize(by="weights").run(graph, Context())
    assert_equivalent(model, to_proto(graph))


def test_tensor_read_by_a_subgraph_keeps_its_scale():
    net = _Net(2)
    a = net.conv("x", 3, 4)
    branch = helper.make_graph(
        [helper.make_node("Exp", [a], ["e"])], "then", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", [a], ["f"])], "else", [], [helper.make_tensor_value_info("f", TensorProto.FLOAT, None)]
    )
    yes = net.constant(np.zeros(0))
    net.weights[-1] = numpy_helper.from_array(np.asarray(True), yes)
    net.nodes.append(helper.make_node("If", [yes], ["chosen"], then_branch=branch, else_branch=other))
    model = net.model(net.add("Add", [net.conv(a, 4, 4), "chosen"]))
    graph = from_proto(model)
    (record,) = run_pipeline(graph, [Equalize(by="weights")], Context())
    assert not record.changes


def test_shared_weights_are_left_alone():
    net = _Net(3)
    w = net.constant(net.rng.standard_normal((3, 3, 1, 1)))
    model = net.model(net.add("Conv", [net.add("Relu", [net.add("Conv", ["x", w])]), w]))
    (record,) = run_pipeline(from_proto(model), [Equalize(by="weights")], Context())
    assert not record.changes
    assert "shared" in record.changes.refused[0].reason


def test_hints_follow_the_scales():
    net = _Net(4)
    a = net.conv("x", 3, 4)
    model = net.model(net.conv(net.add("Relu", [a]), 4, 2))
    images = {"x": net.rng.standard_normal((8, 3, 8, 8)).astype(np.float32)}
    data = Dataset.from_arrays(images)
    before = measure_channels(model, [a], data)[a]
    hints = {a: (before.mean, np.sqrt(before.variance))}
    context = Context(hints=hints)
    graph = from_proto(model)
    run_pipeline(graph, [Equalize(by="weights")], context)
    after = measure_channels(to_proto(graph), [a], data)[a]
    np.testing.assert_allclose(context.hints[a][0], after.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(context.hints[a][1], np.sqrt(after.variance), rtol=1e-4)
    np.testing.assert_array_equal(hints[a][0], before.mean)  # what others hold is still true of the old graph


def _sqnr(expected: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()))


def test_per_tensor_weights_gain():
    net = _Net(5)
    x = net.conv("x", 3, 16)
    for _ in range(3):
        x = net.conv(net.add("Relu", [x]), 16, 16)
    model = net.model(net.conv(net.add("Relu", [x]), 16, 4))
    images = {"x": net.rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    unseen = {"x": net.rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    expected = next(iter(Session(model).run(unseen).values()))
    quality = []
    for first in ([], [Equalize(by="weights")]):
        graph = from_proto(model)
        context = Context(target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays(images))
        pipeline = [*first, *Pipeline.parse("quantize{ranges=minmax per-channel=false min-work=0}")]
        run_pipeline(graph, pipeline, context)
        quality.append(_sqnr(expected, next(iter(Session(to_proto(graph)).run(unseen).values()))))
    assert quality[1] > quality[0] + 3


def _block(net: _Net) -> onnx.ModelProto:
    """Expansion, depthwise convolution and projection, as in a MobileNetV2."""
    x = net.add("Relu", [net.conv("x", 3, 16)])
    x = net.add("Relu", [net.conv(x, 16, 16, kernel=3, group=16)])
    return net.model(net.conv(x, 16, 4))


def _weights_on_integers(graph: Any) -> list[Array]:
    """The int8 weights of a quantised graph, in its order."""
    return [tensor for item in to_proto(graph).graph.initializer if (tensor := numpy_helper.to_array(item)).ndim == 4]


def test_depthwise_gains_and_leaves_the_integers_of_weights_as_they_are():
    net = _Net(8)
    model = _block(net)
    images = {"x": net.rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    unseen = {"x": net.rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    expected = next(iter(Session(model).run(unseen).values()))
    quality, weights = [], []
    for first in ([], [Equalize(by="depthwise")]):
        graph = from_proto(model)
        context = Context(target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays(images))
        done = run_pipeline(graph, [*first, *Pipeline.parse("quantize{ranges=minmax min-work=0}")], context)
        quality.append(_sqnr(expected, next(iter(Session(to_proto(graph)).run(unseen).values()))))
        weights.append(_weights_on_integers(graph))
    assert [(change.node, change.what) for change in done[0].changes.rewrites] == [
        ("n0", "output channels of Conv equalised")
    ]
    assert quality[1] > quality[0] + 1
    for plain, scaled in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "only real images tell how loud single channels are"),
        ({"per_channel": False}, "weights that share a scale pay for what depthwise layers would gain"),
    ],
)
def test_depthwise_needs_images_and_scales_by_channel(given, reason):
    graph = from_proto(_block(_Net(8)))
    (record,) = run_pipeline(graph, [Equalize(by="depthwise", **given)], Context())
    assert not record.changes
    assert [item.reason for item in record.changes.refused] == [reason]


@pytest.mark.slow
def test_mobilenet_keeps_its_outputs_and_gains(zoo: Any):
    context = Context(target=Target.load("x86-avx512-vnni"))
    graph = load(zoo.model("mobilenetv2_imagenet"))
    run_pipeline(graph, Pipeline.parse("exact"), context)
    inputs = Session(to_proto(graph)).inputs
    context.calibration = Dataset.from_arrays(zoo.calib("mobilenetv2_imagenet", 32), inputs=inputs)
    unseen, _ = zoo.eval("mobilenetv2_imagenet", 32)
    expected = next(iter(Session(to_proto(graph)).run(unseen).values()))
    quality: Callable[[Any], float] = lambda g: _sqnr(  # noqa: E731
        expected, next(iter(Session(to_proto(g)).run(unseen).values()))
    )
    equalised, plain = clone(graph), clone(graph)
    run_pipeline(equalised, [Equalize(by="noise")], context)
    assert quality(equalised) > 30
    run_pipeline(plain, Pipeline.parse("quantize{ranges=mse}"), context)
    run_pipeline(equalised, Pipeline.parse("quantize{ranges=mse}"), context)
    assert quality(equalised) > quality(plain) + 1


def test_the_guard_and_the_report_look_at_layers_as_they_were_scaled():
    """Scaled tensors keep their names; compared with the unscaled network's they would look broken."""
    net = _Net(6)
    x = net.conv("x", 3, 16)
    for _ in range(3):
        x = net.conv(net.add("Relu", [x]), 16, 16, kernel=3)
    output = net.model(net.conv(net.add("Relu", [x]), 16, 4))
    output.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(output.graph.output[0].name, TensorProto.FLOAT, ["N", 4, 8, 8])
    )
    images = {"x": net.rng.standard_normal((16, 3, 8, 8)).astype(np.float32)}
    report = lpcc.optimize(
        output,
        target="x86-avx512-vnni",
        pipeline="exact,equalize{by=weights},quantize{ranges=minmax min-work=0}",
        calib=images,
        min_sqnr=20,
    ).report
    noise = [layer.sqnr_db for layer in report.layers if layer.sqnr_db is not None]
    assert len(noise) >= 4
    assert min(noise) > 15
