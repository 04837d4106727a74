from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.calibrate import Histogram, Method, Statistics, choose, joint
from lpcc.calibrate.ranges import Shape

METHODS = get_args(Shape)
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


def statistics(values, size=None):
    values = np.asarray(values, dtype=np.float32)
    average = float(values.min()) / 2, float(values.max()) / 2
    return Statistics(histogram(values), np.zeros(1), average, values.size if size is None else size)


@settings(deadline=None, max_examples=50)
@given(arrays, arrays, st.sampled_from(["minmax", "entropy", "mse"]))
def test_joint_ranges_are_those_of_all_values(a, b, method):
    """Tensors of which each value counts: pooling them is counting their values together."""
    low, high = joint([statistics(a), statistics(b)], method)
    assert (low, high) == pytest.approx(choose(histogram(np.concatenate([a, b])), method), rel=0.05, abs=1e-30)


@settings(deadline=None, max_examples=50)
@given(arrays, st.sampled_from(get_args(Method)), st.permutations(range(4)))
def test_ranges_do_not_depend_on_the_order_of_values(values, method, order):
    parts = np.array_split(values, 4)
    mixed = np.concatenate([parts[i] for i in order])
    assert joint([statistics(values)], method) == joint([statistics(mixed)], method)


@pytest.mark.parametrize("ratio", [1, 4, 100])
def test_joint_range_has_less_error_than_the_union(ratio):
    """A small tensor with long tails does not widen the range of a large one as far as it would by itself."""
    rng = np.random.default_rng(3)
    large, small = rng.standard_normal(100_000), rng.laplace(size=100_000) * 4
    parts = [statistics(large, 100_000), statistics(small, 100_000 // ratio)]
    ends = [joint([part], "mse", levels=16) for part in parts]
    union = min(low for low, _ in ends), max(high for _, high in ends)
    together = joint(parts, "mse", levels=16)

    def total(interval):
        return error(large, *interval, levels=16) + error(small, *interval, levels=16) / ratio

    assert total(together) <= 1.02 * total(union)
    if ratio == 100:
        assert together[1] < 0.8 * union[1]
        assert total(together) < 0.9 * total(union)


@settings(deadline=None, max_examples=50)
@given(arrays, st.sampled_from(get_args(Method)))
def test_symmetric_ranges_are_symmetric(values, method):
    low, high = joint([statistics(values)], method, levels=255, symmetric=True)
    assert low == -high
    assert high <= np.abs(values).max()


def test_symmetric_squared_error_is_least():
    values = np.random.default_rng(1).laplace(size=50_000).astype(np.float32) + 1
    low, high = choose(histogram(values), "mse", levels=15, symmetric=True)
    for share in (1.5, 1.25, 0.8, 0.6):
        assert error(values, low, high, levels=15) <= 1.02 * error(values, low * share, high * share, levels=15)


def test_percentiles_hold_for_each_tensor():
    parts = [statistics(np.arange(1, 10_001)), statistics(np.arange(1, 101))]
    assert joint(parts, "percentile", percentile=99.0)[1] == joint(parts[:1], "percentile", percentile=99.0)[1]


def test_averages_of_several_tensors_are_widened():
    parts = [statistics([-4.0, 2.0]), statistics([-1.0, 8.0])]
    assert joint(parts, "average") == (-2.0, 4.0)
    assert joint([], "average") == (0.0, 0.0)
