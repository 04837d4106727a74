from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.calibrate import Histogram
from lpcc.calibrate.histograms import HALF

positive = st.floats(2.0**-30, 2.0**60, width=32)  # no smaller ones: their product with a width may be rounded to zero
finite = st.one_of(st.just(0.0), positive, positive.map(lambda value: -value))
arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=finite)


def histogram(*parts):
    found = Histogram()
    for part in parts:
        found.add(part)
    return found


def same(a, b):
    return a.exponent == b.exponent and a.zeros == b.zeros and np.array_equal(a.counts, b.counts)


@given(arrays, st.integers(0, 60))
def test_result_does_not_depend_on_how_values_are_split(values, at):
    whole = histogram(values)
    split = histogram(*(part for part in (values[:at], values[at:]) if part.size))
    backwards = histogram(*values[::-1].reshape(-1, 1))
    assert same(whole, split)
    assert same(whole, backwards)
    assert (whole.low, whole.high) == (values.min(), values.max())


@given(arrays, arrays)
def test_merging_is_exact(a, b):
    merged = histogram(a)
    merged.merge(histogram(b))
    assert same(merged, histogram(np.concatenate([a, b])))


@given(arrays)
def test_every_value_lies_in_its_bin(values):
    found = histogram(values)
    assert found.total == values.size
    assert found.zeros == np.count_nonzero(values == 0)
    for value in values[values != 0][:5].astype(np.float64):
        index = int(np.floor(value / found.width)) + HALF
        assert found.counts[index] > 0
        assert abs(found.centres[index] - value) <= found.width / 2


def test_bins_are_fine():
    found = histogram(np.array([-3.0, 100.0], dtype=np.float32))
    assert 2 * HALF * found.width <= 4 * 100


def test_values_that_are_not_finite_are_left_out():
    found = histogram(np.array([1.0, np.nan, np.inf, -np.inf, -2.0], dtype=np.float32))
    assert (found.low, found.high, found.total) == (-2.0, 1.0, 2)
    assert histogram(np.array([np.nan], dtype=np.float32)).total == 0


def test_stated_extremes_are_kept():
    found = Histogram()
    found.add(np.zeros(4, dtype=np.float32), -1.0, 5.0)
    assert (found.low, found.high, found.zeros) == (-1.0, 5.0, 4)


def test_nothing_changes_nothing():
    found = histogram(np.ones(3, dtype=np.float32))
    found.add(np.zeros(0, dtype=np.float32))
    found.merge(Histogram())
    assert found.total == 3


def test_all_zero():
    found = histogram(np.zeros(5, dtype=np.float32))
    assert (found.exponent, found.width, found.total) == (None, 0.0, 5)
    found.add(np.full(2, 0.5, dtype=np.float32))
    assert found.total == 7
    assert found.counts.sum() == pytest.approx(2)
