"""Ranges of the pass `quantize`: all its options on small networks and on one of the zoo."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from lpcc.calibrate.partial import Walk
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes.quantize.auto_ranges import _by_image, _widened, closest, outputs_of, refine
from lpcc.passes.quantize.groups import Group
from lpcc.passes.quantize.output_ranges import readers, refine_locally
from lpcc.passes.quantize.ranging import Ranges
from lpcc.passes.quantize.weight_ranges import WeightRanges
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.quality.noise import Noise, noise_of, noise_parts
from lpcc.runtime import TensorSpec
from lpcc.target import Target

METHODS = get_args(Ranges)
U8 = np.dtype(np.uint8)

FIRE = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,8,12,12] x) => (float[N,6] y)
{
    c0 = Conv<pads = [1,1,1,1]>(x, w0, b0)
    r0 = Relu(c0)
    c1 = Conv(r0, w1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1]>(r0, w2)
    r2 = Relu(c2)
    j = Concat<axis = 1>(r1, r2)
    p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(j)
    c3 = Conv(p, w3)
    a = GlobalAveragePool(c3)
    y = Flatten(a)
}
"""


WEIGHTS = {"w0": (16, 8, 3, 3), "b0": (16,), "w1": (8, 16, 1, 1), "w2": (8, 16, 3, 3), "w3": (6, 16, 1, 1)}


def fire():
    """A Fire module as in SqueezeNet, with weights from a seed: two convolutions joined, one much larger."""
    model = onnx.parser.parse_model(FIRE)
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = rng.standard_normal(shape).astype(np.float32) * (0.2 if name != "w2" else 0.6)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def images(count=40, seed=1, shape=(8, 12, 12)):
    return np.random.default_rng(seed).laplace(size=(count, *shape)).astype(np.float32)


def context(model, values):
    (spec,) = TensorSpec.inputs_of(model)
    return Context(
        target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays({spec.name: values}, inputs=[spec])
    )


def quantized(model, values, pipeline):
    ctx = context(model, values)
    graph = from_proto(model)
    run_pipeline(graph, Pipeline.parse(f"exact,{pipeline}"), ctx)
    return to_proto(graph)


def scales(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(("scale", "point"))}


def noise(model, result, seed=2):
    fresh = [{"x": images(60, seed)}]
    return noise_of(zip(outputs_of(model, fresh), outputs_of(result, fresh), strict=True))


@pytest.mark.parametrize("ranges", METHODS)
@pytest.mark.parametrize("more", ["", " symmetric=true", " per-channel=false", " scheme=s8s8 symmetric=true"])
def test_every_method_runs_and_keeps_the_signal(ranges, more):
    model = fire()
    result = quantized(model, images(), f"quantize{{ranges={ranges} min-work=0{more}}}")
    assert noise(model, result) < (0.1 if ranges in ("average", "entropy") else 0.02)


@pytest.mark.parametrize("ranges", METHODS)
def test_a_large_bias_does_not_overflow(ranges):
    """Tiny weights under a large bias: the scale of the channel grows until the bias fits into int32."""
    model = fire()
    for tensor in model.graph.initializer:
        if tensor.name in ("w0", "b0"):
            values = numpy_helper.to_array(tensor).copy()
            values[3] = 1e-8 if tensor.name == "w0" else 1000.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for weight_ranges in get_args(WeightRanges):
        result = quantized(model, images(), f"quantize{{ranges={ranges} weight-ranges={weight_ranges} min-work=0}}")
        arrays = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
        bias = arrays["b0_quantized"][3] * float(arrays["b0_scale"][3])
        assert bias == pytest.approx(1000, rel=1e-6)
        assert abs(int(arrays["b0_quantized"][3])) <= 2**30 + 1


@pytest.mark.parametrize("weight_ranges", get_args(WeightRanges))
@pytest.mark.parametrize("per_channel", ["true", "false"])
def test_ranges_of_weights(weight_ranges, per_channel):
    model = fire()
    options = f"ranges=mse weight-ranges={weight_ranges} per-channel={per_channel} min-work=0"
    assert noise(model, quantized(model, images(), f"quantize{{{options}}}")) < 0.01


def test_joined_tensors_share_one_scale_chosen_together():
    """It clips some of the larger one's values for the sake of all others."""
    model = fire()
    result = quantized(model, images(), "quantize{ranges=mse min-work=0}")
    dequantized = {node.output[0]: node for node in result.graph.node if node.op_type == "DequantizeLinear"}
    (join,) = (node for node in result.graph.node if node.op_type == "Concat")
    assert len({dequantized[name].input[1] for name in join.input}) == 1
    alone = scales(quantized(model, images(), "quantize{ranges=minmax min-work=0}"))
    together = scales(result)
    name = dequantized[join.input[0]].input[1]
    assert together[name] < alone[name]


def test_readers_are_the_layers_behind_what_only_moves():
    group = Group(("r1", "r2"), 0.0, 1.0, (0.0, np.inf), U8, frozenset({"j", "p"}))
    assert readers(fire(), group) == ["c3"]
    assert set(readers(fire(), Group(("r0",), 0.0, 1.0, (0.0, np.inf), U8))) == {"r1", "r2"}


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_searches_mend_a_bad_range(factor):
    """From a range five times too wide, or too narrow. At the outputs rounding averages out: less is to be seen."""
    model, feeds = fire(), [{"x": images(16)}]
    (values,) = [held["r0"] for held in _held(model, feeds, "r0")]
    high = float(values.max())
    group = Group(("r0",), 0.0, high * factor, (0.0, np.inf), U8)
    expected = outputs_of(model, feeds)
    locally = refine_locally(model, [group], [], feeds)
    whole = noise_parts([(expected[0], {"y": expected[0]["y"] * np.float32(1.1)})])
    by_outputs = refine(model, [group], [], feeds, expected, whole)
    assert 0.5 * high < locally["r0",][1] < 1.2 * high
    assert abs(np.log(by_outputs["r0",][1] / high)) < abs(np.log(factor)) - 0.2


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 1.0), (0.5, 1.3)])
def test_a_range_is_widened_as_far_as_images_do_not_tell_the_difference(spread, factor):
    """It costs a little more with each step; images that differ by half tell only the third."""
    group = Group(("r0",), 0.0, 1.0, (0.0, np.inf), U8)
    differences = spread * np.resize([1.0, -1.0], 16)

    def noises(interval):
        steps = np.log(interval[1]) / np.log(1.3**0.5)
        return np.full(16, 1.0) + steps * (0.05 * steps + differences)

    low, high = _widened(group, (0.0, 1.0), noises)
    assert low == 0
    np.testing.assert_allclose(high, factor)


def test_the_noise_of_each_image_is_told_where_outputs_have_them():
    whole = Noise(0.0, 1.0)
    expected = {"boxes": np.ones((3, 4, 2), np.float32)}
    found = {"boxes": expected["boxes"] + np.array([0.0, 0.5, 1.0], np.float32).reshape(3, 1, 1)}
    np.testing.assert_allclose(_by_image([(expected, found)], whole), [0, 0.25, 1])
    counts = {"boxes": np.ones((3, 4), np.float32), "kept": np.ones(7, np.float32)}
    assert len(_by_image([(counts, counts)], whole)) == 1


def _held(model, feeds, tensor):
    walk = Walk(model, feeds)
    walk.to(tensor)
    return walk.held


def test_the_first_choice_wins_unless_another_is_clearly_better():
    model = fire()
    feeds = [{"x": images(8)}]
    expected = outputs_of(model, feeds)
    error = {("first",): 1.1, ("close",): 1.095, ("clear",): 1.01}

    def attempt(choice):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        for tensor in changed.graph.initializer:
            if tensor.name == "w3":
                values = numpy_helper.to_array(tensor) * np.float32(error[next(iter(choice))])
                tensor.CopyFrom(numpy_helper.from_array(values, "w3"))
        return changed

    choices = [{name: (0.0, 1.0)} for name in error]
    assert closest(choices[:2], attempt, feeds, expected) is choices[0]
    assert closest(choices, attempt, feeds, expected) is choices[2]


def test_the_same_images_give_the_same_bytes():
    model = fire()
    one, other = (quantized(model, images(), "quantize{min-work=0}") for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("ranges", METHODS)
def test_scales_depend_on_neither_batch_nor_threads(ranges, zoo, monkeypatch):
    """ResNet-8 of MLPerf Tiny: batches of 1, 3 and 16, one thread and two."""
    from lpcc.calibrate import collect
    from lpcc.passes.quantize import auto_ranges, ranging

    path = zoo.model("mlperf_resnet8_cifar10")
    ((_, values),) = zoo.calib("mlperf_resnet8_cifar10", 40).items()
    model = onnx.load(path)
    found = []
    for batch_size, threads in ((1, 1), (3, 2), (16, 1), (16, 2)):
        monkeypatch.setattr(
            ranging,
            "collect",
            lambda *args, b=batch_size, t=threads, **given: collect(*args, **given, batch_size=b, threads=t),
        )
        monkeypatch.setattr(auto_ranges, "_threads", lambda t=threads: t)
        found.append(scales(quantized(model, values, f"quantize{{ranges={ranges}}}")))
    assert len(found[0]) > 20
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, array in other.items():
            np.testing.assert_allclose(array, found[0][key], rtol=1e-6)
