from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.calibrate import Histogram, Method, choose

METHODS = get_args(Method)
arrays = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False))


def histogram(values):
    found = Histogram()
    found.add(np.asarray(values, dtype=np.float32))
    return found


def error(values, low, high, levels=256):
    """Mean squared error of quantising with a step of (high - low) / 255, zero exact."""
    step = (high - low) / (levels - 1)
    return float(np.mean((np.clip(np.rint(values / step) * step, low, high) - values) ** 2))


@settings(deadline=None, max_examples=50)
@given(arrays, st.sampled_from(METHODS))
def test_ranges_hold_zero_and_stay_within_the_extremes(values, method):
    low, high = choose(histogram(values), method)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    if values.any():
        assert low < high


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_constants(method, value):
    assert choose(histogram(np.full(100, value)), method) == (min(value, 0.0), max(value, 0.0))


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_outlier_among_many_values_is_clipped(method):
    values = np.append(np.random.default_rng(0).standard_normal(200_000), 60.0).astype(np.float32)
    low, high = choose(histogram(values), method)
    assert low < 0
    assert 2.5 < high < 20


def test_percentile_leaves_out_that_share():
    values = np.arange(1, 100_001, dtype=np.float32)
    low, high = choose(histogram(values), "percentile", percentile=99.0)
    assert low == 0
    assert high == pytest.approx(99_000, rel=1e-3)


def test_percentile_counts_zeros():
    values = np.concatenate([np.zeros(99_000), np.arange(1000)]).astype(np.float32)
    _, high = choose(histogram(values), "percentile", percentile=99.5)
    assert high == pytest.approx(500, rel=0.02)


@pytest.mark.parametrize("shape", ["normal", "laplace", "relu", "skewed"])
def test_least_squared_error_is_least(shape):
    rng = np.random.default_rng(1)
    values = {
        "normal": rng.standard_normal(50_000),
        "laplace": rng.laplace(size=50_000),
        "relu": np.maximum(rng.laplace(size=50_000), 0),
        "skewed": np.append(rng.standard_normal(50_000), rng.standard_normal(50) * 30 + 200),
    }[shape].astype(np.float32)
    found = histogram(values)
    best = error(values, *choose(found, "mse", levels=16), levels=16)
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        assert best <= 1.05 * error(values, min(found.low, 0) * share, found.high * share, levels=16)


def test_entropy_clips_a_long_thin_tail():
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.standard_normal(100_000), rng.uniform(-50, 50, 100)]).astype(np.float32)
    low, high = choose(histogram(values), "entropy")
    assert -40 < low < -2
    assert 2 < high < 40
