from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from lpcc.calibrate import collect
from lpcc.calibrate.streams import Average
from lpcc.data import Dataset
from lpcc.errors import ModelError
from lpcc.runtime import TensorSpec

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[{batch},3,40,48] x) => (float[{batch},3] y, int64[{batch},3,40,48] i)
<float zero = {{0}}, float six = {{6}}>
{{
    a = Add(x, x)
    r = Relu(a)
    c = Clip(a, zero, six)
    i = Cast<to = 7>(c)
    p = GlobalAveragePool(a)
    y = Flatten(p)
}}
"""
NAMES = ["x", "a", "r", "c", "y", "i"]


def made(count, batch="N"):
    model = onnx.parser.parse_model(MODEL.format(batch=batch))
    values = np.random.default_rng(0).standard_normal((count, 3, 40, 48)).astype(np.float32) * 3 - 0.5
    return model, values, Dataset.from_arrays({"x": values}, inputs=TensorSpec.inputs_of(model))


def test_extremes_are_exact_and_samples_fair():
    model, values, data = made(30)
    found = collect(model, NAMES, data, extremes="all")
    assert set(found) == {"x", "a", "r", "c", "y"}  # integers have no range
    a = 2 * values
    expected = {"x": values, "a": a, "r": np.maximum(a, 0), "c": np.clip(a, 0, 6), "y": a.mean((2, 3))}
    for name, exact in expected.items():
        histogram = found[name].histogram
        assert (histogram.low, histogram.high) == (pytest.approx(exact.min()), pytest.approx(exact.max()))
        mean = (histogram.counts * histogram.centres).sum() / histogram.total
        assert mean == pytest.approx(exact.mean(), abs=0.05 * float(exact.std()))
        assert histogram.zeros / histogram.total == pytest.approx((exact == 0).mean(), abs=0.02)
        channels = exact.mean(axis=(0, 2, 3)) if exact.ndim == 4 else exact.mean(axis=0)
        assert found[name].channel_means == pytest.approx(channels, abs=0.05 * float(exact.std()))


def test_binned_values_are_bounded():
    """Five times the images, about the same number of values in all, as long as some are left of each image."""
    totals = [collect(model, ["a"], data)["a"].histogram.total for model, _, data in (made(100), made(500))]
    assert totals[1] < 2 * totals[0] < 1 << 19


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_size_does_not_matter(batch):
    """Four does not divide ten: the last batch is filled up, and its filling must not count."""
    (model, _, data), (fixed, _, same) = made(10), made(10, batch)
    for name in ("x", "a", "r", "y"):
        one, other = collect(model, [name], data)[name], collect(fixed, [name], same)[name]
        assert np.array_equal(one.histogram.counts, other.histogram.counts)
        assert (one.histogram.low, one.histogram.high) == (other.histogram.low, other.histogram.high)
        assert one.channel_means == pytest.approx(other.channel_means)


def test_the_model_stays_as_it_is():
    model, _, data = made(2)
    before = model.SerializeToString()
    collect(model, NAMES, data)
    assert model.SerializeToString() == before


def test_progress_reaches_the_end():
    model, _, data = made(5)
    seen = []
    collect(model, ["a"], data, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


@pytest.mark.parametrize("extremes", ["sampled", "image", "all"])
def test_what_is_behind_the_tensors_is_not_run(extremes):
    model, values, data = made(2)
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Mystery", ["p"], ["y"], domain="nobody"))
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    found = collect(model, ["x", "r"], data, extremes=extremes)
    assert found["r"].histogram.high == pytest.approx(2 * values.max(), rel=0.2 if extremes == "sampled" else 1e-6)
    with pytest.raises(ModelError):
        collect(model, ["x", "y"], data, extremes=extremes)


@pytest.mark.parametrize("extremes", ["sampled", "image", "all"])
def test_inputs_alone(extremes):
    model, values, data = made(3)
    histogram = collect(model, ["x"], data, extremes=extremes)["x"].histogram
    assert (histogram.low, histogram.high) == (values.min(), values.max())


def test_unknown_tensor():
    model, _, data = made(1)
    with pytest.raises(ModelError, match="nowhere"):
        collect(model, ["nowhere"], data)


@pytest.mark.parametrize("extremes", ["sampled", "image", "all"])
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 1), (16, 2), (64, 1)])
def test_turns_depend_on_images_alone(extremes, batch_size, threads):
    """With 520 images the tensors take two turns; batches of 3 and 64 straddle the blocks that change them."""
    model, _, data = made(520)
    names = ["x", "a", "r", "c"]
    found = collect(model, names, data, extremes=extremes, batch_size=batch_size, threads=threads)
    usual = collect(model, names, data, extremes=extremes)
    for name in names:
        one, other = found[name], usual[name]
        assert np.array_equal(one.histogram.counts, other.histogram.counts)
        assert (one.histogram.low, one.histogram.high) == (other.histogram.low, other.histogram.high)
        assert one.average == pytest.approx(other.average, rel=1e-6)


def test_all_extremes_are_those_of_all_images():
    model, values, data = made(600)
    spike = values.copy()
    spike[333, 1, 17, 23], spike[555, 0, 5, 7] = 400.0, -300.0  # between the pixels of the grid, in either turn
    data = Dataset.from_arrays({"x": spike}, inputs=TensorSpec.inputs_of(model))
    found = collect(model, ["x", "a", "r", "c"], data, extremes="all")
    extremes = {name: (found[name].histogram.low, found[name].histogram.high) for name in found}
    assert extremes == {"x": (-300, 400), "a": (-600, 800), "r": (0, 800), "c": (0, 6)}


@pytest.mark.parametrize("opset", [17, 18])
def test_averages_are_those_of_single_images(opset):
    """The first hundred count alike, whatever batch they came in."""
    model, values, data = made(40)
    model.opset_import[0].version = opset
    found = collect(model, ["a", "r", "y"], data, extremes="image", batch_size=7)
    a = 2 * values
    assert found["a"].average == pytest.approx((a.min((1, 2, 3)).mean(), a.max((1, 2, 3)).mean()))
    assert found["r"].average == pytest.approx((0, a.max((1, 2, 3)).mean()))
    y = a.mean((2, 3))
    assert found["y"].average == pytest.approx((y.min(1).mean(), y.max(1).mean()), rel=1e-4)


def test_moving_average_forgets_slowly():
    found = Average()
    found.add(np.concatenate([np.full(100, 2.0), [np.nan], np.full(100, 4.0)]))
    assert found.value == pytest.approx(4 - 2 * 0.99**100)
