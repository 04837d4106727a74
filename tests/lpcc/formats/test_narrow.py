"""Scales of least error for integers of few bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.formats.affine import quantize_weights
from lpcc.formats.narrow import limits, narrow_weights
from lpcc.formats.search import WITH_BIAS


def error(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of each channel, by what the scales are chosen for."""
    return WITH_BIAS.error(*(part.reshape(len(values), -1).astype(np.float64) for part in (values, kept)))


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


@pytest.mark.parametrize(("bits", "share"), [(4, 0.9), (2, 0.7)])
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


@pytest.mark.parametrize("bits", [2, 4])
def test_channels_keep_their_strength(bits: int) -> None:
    """The projection of the kept weights onto the true ones is nearly as long as these; least squares shrinks it."""
    values = np.random.default_rng(3).normal(size=(16, 64)).astype(np.float32)
    kept = narrow_weights(values, 0, bits).values
    gain = (kept * values).sum(axis=1) / np.square(values).sum(axis=1)
    assert np.all(np.abs(gain - 1) < {2: 0.09, 4: 0.01}[bits])
