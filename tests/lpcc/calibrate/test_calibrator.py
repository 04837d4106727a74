from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from lpcc.calibrate import collect
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


def test_unknown_tensor():
    model, _, data = made(1)
    with pytest.raises(ModelError, match="nowhere"):
        collect(model, ["nowhere"], data)
