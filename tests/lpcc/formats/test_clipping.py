from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.formats.affine import quantize_weights, symmetric_params
from lpcc.formats.clipping import largest_magnitudes, squared_error_magnitudes

weights = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=st.floats(-10, 10, width=32)
)


@settings(deadline=None, max_examples=40)
@given(weights, st.sampled_from([None, 0, 1]), st.sampled_from([7, 64, 127]))
def test_never_worse_than_the_largest_magnitude(values, axis, largest):
    found = squared_error_magnitudes(values, axis, largest)
    plain = quantize_weights(values, axis, largest)
    clipped = quantize_weights(values, axis, largest, magnitudes=found)
    others = None if axis is None else 1 - axis
    energy = [np.square(each.values - values).sum(axis=others) for each in (plain, clipped)]
    assert (energy[1] <= energy[0] * (1 + 1e-6)).all()
    assert (found <= largest_magnitudes(values, axis)).all()


def test_weights_on_a_grid_stay_on_it():
    """As those of networks that were trained for int8 do: any clipping would only harm."""
    integers = np.random.default_rng(0).integers(-127, 128, (8, 50))
    integers[:, 0] = 127
    values = (integers * 0.01).astype(np.float32)
    found = quantize_weights(values, 0, 127, magnitudes=squared_error_magnitudes(values, 0, 127))
    assert np.array_equal(found.integers, integers)


def test_an_outlier_is_clipped_where_levels_are_few():
    values = np.append(np.random.default_rng(0).standard_normal(1000), 6.0).astype(np.float32)[None]
    assert squared_error_magnitudes(values, 0, 7)[0] < 5


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.uint8, 128)])
def test_symmetric_parameters(dtype, zero):
    found = symmetric_params(2.54, np.dtype(dtype))
    assert (found.zero_point, float(found.scale)) == (zero, pytest.approx(0.02))
    assert symmetric_params(0.0, np.dtype(dtype)).scale == 1
