from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from lpcc.calibrate.channels import image_means, measure_channels, nonzero_shares
from lpcc.calibrate.holdout import used_and_apart
from lpcc.data import Dataset
from lpcc.errors import ModelError
from lpcc.runtime import Session

_MODEL = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,7,5] x) => (float[N,3] y)
{
    s = Sin(x)
    m = GlobalAveragePool(s)
    f = Flatten(m)
    i = Cast<to=7>(f)
    y = Exp(f)
}""")
_X = np.random.default_rng(0).standard_normal((21, 3, 7, 5)).astype(np.float32) * np.float32([[[[1]], [[5]], [[0]]]])


def test_statistics_are_those_of_all_values():
    found = measure_channels(_MODEL, ["x", "s", "y", "i"], Dataset.from_arrays({"x": _X}))
    assert set(found) == {"x", "s", "y"}  # integers are left out
    values = {"x": _X, "s": np.sin(_X), "y": np.exp(np.sin(_X).mean(axis=(2, 3)))}
    for name, channels in found.items():
        flat = np.moveaxis(values[name].astype(np.float64), 1, 0).reshape(3, -1)
        np.testing.assert_allclose(channels.low, flat.min(axis=1), rtol=1e-5)
        np.testing.assert_allclose(channels.high, flat.max(axis=1), rtol=1e-5)
        np.testing.assert_allclose(channels.mean, flat.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(channels.variance, flat.var(axis=1), atol=1e-5)
        np.testing.assert_allclose(channels.magnitude, np.abs(flat).max(axis=1), rtol=1e-5)


def test_numbers_that_are_not_finite_leave_a_tensor_out():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[N,3,7,5] x) => (float[N,3,7,5] l, float[N,3,7,5] s) { l = Log(x) s = Sin(x) }""")
    assert set(measure_channels(model, ["l", "s"], Dataset.from_arrays({"x": _X}))) == {"s"}


def test_shares_of_numbers_that_are_not_zero():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[N,3,7,5] x) => (float[N,3,7,5] r, float[N,3] f) { r = Relu(x) m = GlobalMaxPool(r) f = Flatten(m) }""")
    x = _X - np.float32([[[[0]], [[9]], [[1]]]])
    found = nonzero_shares(model, ["x", "r", "f"], Dataset.from_arrays({"x": x}))
    np.testing.assert_allclose(found["x"], [1, 1, 1])
    np.testing.assert_allclose(found["r"], (x > 0).mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found["f"], (x > 0).any(axis=(2, 3)).mean(axis=0), rtol=1e-6)


def test_a_name_that_nothing_makes_is_refused():
    with pytest.raises(ModelError, match="nonsense"):
        measure_channels(_MODEL, ["nonsense"], Dataset.from_arrays({"x": _X}))


def test_means_of_single_images():
    found = image_means(_MODEL, ["s", "f"], [{"x": _X[:8]}, {"x": _X[8:]}])
    expected = np.sin(_X).mean(axis=(2, 3))
    assert found["s"].shape == (21, 3)
    np.testing.assert_allclose(found["s"], expected, atol=1e-6)
    np.testing.assert_allclose(found["f"], expected, atol=1e-6)
    assert Session(_MODEL).outputs[0].name == "y"  # the model itself is as it was


@pytest.mark.parametrize(("count", "used", "apart"), [(100, 64, 128), (100, 40, 20), (16, 128, 128), (17, 3, 1)])
def test_images_apart_are_others(count, used, apart):
    data = Dataset.from_arrays({"x": np.arange(count, dtype=np.float32)[:, None]})
    first, second = ([v for feed in feeds for v in feed["x"][:, 0]] for feeds in used_and_apart(data, used, apart))
    assert first
    assert second
    assert not set(first) & set(second)
    assert len(second) <= min(apart, count // 2)


def test_few_images_serve_for_both():
    data = Dataset.from_arrays({"x": np.zeros((5, 1), np.float32)})
    used, apart = used_and_apart(data, 100, 100)
    assert used == apart
    assert len(used[0]["x"]) == 5
