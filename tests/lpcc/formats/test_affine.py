from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.formats.affine import SMALLEST, activation_params, quantize, quantize_bias, quantize_weights
from lpcc.passes.quantize.emit import mean_shift

KINDS = [np.dtype(np.uint8), np.dtype(np.int8)]
ends = st.floats(0, 2.0**100, width=32)
weights = hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**20), 2.0**20, width=32))


def dequantize(integers, params):
    return (integers.astype(np.float64) - params.zero_point) * float(params.scale)


@given(ends, ends, st.sampled_from(KINDS))
def test_error_is_at_most_half_a_step_within_the_range(below, high, dtype):
    params = activation_params(-below, high, dtype)
    values = np.linspace(max(-below, params.low), min(high, params.high), 101)
    error = np.abs(dequantize(quantize(values, params), params) - values)
    assert error.max() <= 0.5001 * float(params.scale) + 1e-6 * max(below, high)


@given(ends, ends, st.sampled_from(KINDS))
def test_zero_is_exact_and_the_range_is_met(below, high, dtype):
    params = activation_params(-below, high, dtype)
    assert dequantize(quantize(np.zeros(1), params), params) == 0
    assert params.scale > 0
    if below + high > 1e-20:
        assert params.low <= -below + 0.51 * float(params.scale)
        assert params.high >= high - 0.51 * float(params.scale) - 1e-6 * (below + high)


@given(st.floats(2.0**-60, 2.0**60, width=32), st.sampled_from(KINDS))
def test_a_range_from_zero_never_exceeds_its_end(high, dtype):
    """An activation that limits to [0, high] is superfluous then."""
    params = activation_params(0.0, high, dtype)
    assert params.zero_point == np.iinfo(dtype).min
    assert params.low == 0
    assert params.high <= high


@pytest.mark.parametrize("dtype", KINDS)
def test_a_range_without_extent(dtype):
    params = activation_params(0.0, 0.0, dtype)
    assert (params.scale, params.low) == (1, 0)


@given(weights, st.sampled_from([None, 0, 1]), st.sampled_from([64, 127]))
@example(np.full((3, 4), 4.7667063e-30, np.float32), None, 64)
def test_weights_err_by_half_a_step(values, axis, largest):
    found = quantize_weights(values, axis, largest)
    assert np.abs(found.integers.astype(int)).max() <= largest
    others = tuple(i for i in range(2) if i != axis)
    steps = np.abs(values).max(axis=others if axis is not None else None, keepdims=True) / largest
    assert (np.abs(found.values - values) <= 0.5001 * steps + SMALLEST * largest).all()  # smaller ones are zero


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32).map(lambda value: value * 2.0**-40)),
    hnp.arrays(np.float32, 3, elements=st.floats(-(2.0**40), 2.0**40, width=32)),
    st.floats(2.0**-30, 2.0**30),
    st.sampled_from([None, 0]),
)
def test_biases_never_overflow(values, bias, input_scale, axis):
    found = quantize_weights(values, axis, 127, bias, input_scale)
    integers, scales = quantize_bias(bias, np.float32(input_scale), found)
    assert np.abs(integers.astype(np.int64)).max() <= 2**30 * 1.001
    assert np.abs(integers * scales.astype(np.float64) - bias) == pytest.approx(0, abs=float(scales.max()))


def test_mean_shift_is_that_of_the_convolution():
    rng = np.random.default_rng(0)
    error, means = rng.standard_normal((4, 3, 2, 2)), rng.standard_normal(6)  # two groups of two outputs
    expected = [sum(error[o, i].sum() * means[3 * (o // 2) + i] for i in range(3)) for o in range(4)]
    assert mean_shift(error, means, groups=2) == pytest.approx(np.array(expected))
