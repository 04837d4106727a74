"""Scales of least squared error for integers of few bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.formats.affine import quantize_weights
from lpcc.formats.narrow import limits, narrow_weights


def error(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.square(values - kept).reshape(len(values), -1).sum(axis=1)
    return result


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4]), st.sampled_from(["normal", "student", "skewed", "zero"]))
def test_never_worse_than_the_largest_magnitude_as_the_scale(seed: int, bits: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(size=(5, 3, 3)),
        "student": rng.standard_t(2, size=(5, 3, 3)),
        "skewed": -np.abs(rng.normal(size=(5, 3, 3))),
        "zero": np.zeros((5, 3, 3)),
    }[kind].astype(np.float32)
    low, high = limits(bits)
    found = narrow_weights(values, 0, bits)
    assert found.integers.min() >= low
    assert found.integers.max() <= high
    assert np.all(found.scales > 0)
    plain = quantize_weights(values, 0, high)
    assert np.all(error(values, found.values) <= error(values, plain.values) * (1 + 1e-5) + 1e-12)


@pytest.mark.parametrize(("bits", "share"), [(4, 0.8), (2, 0.5)])
def test_much_better_where_one_weight_stands_out(bits: int, share: float) -> None:
    values = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32)
    values[:, 0] = 6.0
    best = error(values, narrow_weights(values, 0, bits).values)
    assert np.all(best < share * error(values, quantize_weights(values, 0, limits(bits)[1]).values))


def test_weights_on_a_grid_are_kept_exactly() -> None:
    values = (0.25 * np.random.default_rng(1).integers(-8, 8, (4, 50))).astype(np.float32)
    values[:, 0] = -2.0
    np.testing.assert_allclose(narrow_weights(values, 0, 4).values, values, atol=1e-6)


def test_one_scale_for_all_channels() -> None:
    found = narrow_weights(np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32), None, 4)
    assert found.scales.shape == ()
    assert found.axis is None


def test_the_bias_stays_within_int32() -> None:
    found = narrow_weights(np.full((2, 4), 1e-6, dtype=np.float32), 0, 4, np.array([1e4, 0.0]), 1e-3)
    assert 1e4 / (1e-3 * found.scales[0]) <= 2**31 - 1
    assert found.scales[1] < found.scales[0]


def test_limits_by_width() -> None:
    assert limits(2) == (-2, 1)
    assert limits(4) == (-8, 7)
    assert limits(8) == (-127, 127)
