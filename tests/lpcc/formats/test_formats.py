"""What every number format keeps to: nearest, idempotent, within its limits, better with more bits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.errors import UsageError
from lpcc.formats.fixed import Fixed
from lpcc.formats.format import TENSOR, Layout
from lpcc.formats.integer import DorefaWeights, Integer, UnitActivations
from lpcc.formats.powers import FLightNN, PowerOfTwo
from lpcc.formats.search import ALONE
from lpcc.formats.signs import Binary, SignActivations, Ternary, TwoScaleTernary

PROJECTIONS = [
    Integer(8),
    Integer(4),
    Integer(2),
    Integer(4, symmetric=False),
    Integer(2, symmetric=False),
    Fixed(8),
    Fixed(6, fraction=3),
    Fixed(4, fraction=-2),
    PowerOfTwo(1),
    PowerOfTwo(1, 3, "power"),
    PowerOfTwo(2),
    PowerOfTwo(2, scale="power"),
    FLightNN(),
    FLightNN(threshold=0.1),
    Ternary(),
    TwoScaleTernary(),
    Binary(),
    UnitActivations(2),
    SignActivations(),
]
"""Formats that leave what they express as it is; DoReFa's weights, which are squashed, are none."""

NEAREST = [kind for kind in PROJECTIONS if type(kind) is not Ternary and getattr(kind, "k", 1) == 1]
"""Those that express every number by the nearest that they can: ternary zeroes by a share of the mean magnitude."""

ALL = [*PROJECTIONS, DorefaWeights(1), DorefaWeights(2), DorefaWeights(4, rescaled=True)]
LAYOUTS = [TENSOR, Layout(0), Layout(1), Layout(0, 2), Layout(1, 4)]
whole = st.integers(-(2**12), 2**12).map(lambda n: n / 2**8)
arrays = hnp.arrays(np.float32, (3, 6), elements=whole)
formats = pytest.mark.parametrize("kind", ALL, ids=str)


def rows_of(kind, values, layout):
    """The values, as the format expresses them, and its scales, by row."""
    scales = kind.fit(values, layout)
    return scales.layout.rows(kind.round(values, scales)), scales.layout.rows(values), scales


@pytest.mark.parametrize("kind", NEAREST, ids=str)
@settings(max_examples=30)
@given(values=arrays, layout=st.sampled_from(LAYOUTS))
def test_every_number_becomes_the_nearest_that_there_is(kind, values, layout):
    rounded, rows, scales = rows_of(kind, values, layout)
    distance = np.abs(rows[:, :, None] - kind.levels(scales)[:, None, :]).min(axis=2)
    steps = np.abs(kind.levels(scales)).max(axis=1, keepdims=True)
    assert (np.abs(rounded - rows) <= distance * (1 + 1e-5) + 1e-6 * steps).all()


@formats
@settings(max_examples=30)
@given(values=arrays, layout=st.sampled_from(LAYOUTS))
def test_only_levels_are_expressed(kind, values, layout):
    rounded, _, scales = rows_of(kind, values, layout)
    real = scales.layout.rows(np.ones_like(values)) > 0  # not those that fill up the last block
    levels = kind.levels(scales)
    assert (np.diff(levels, axis=1) >= 0).all()
    for row, kept, own in zip(rounded, real, levels, strict=True):
        distance = np.abs(row[kept, None] - own[None]).min(axis=1)
        assert (distance <= 1e-6 * np.abs(own).max()).all()


@pytest.mark.parametrize("kind", PROJECTIONS, ids=str)
@settings(max_examples=30)
@given(values=arrays, layout=st.sampled_from(LAYOUTS))
def test_what_is_expressed_stays(kind, values, layout):
    scales = kind.fit(values, layout)
    once = kind.round(values, scales)
    np.testing.assert_allclose(kind.round(once, scales), once, rtol=1e-6)


@formats
@settings(max_examples=30)
@given(values=arrays, layout=st.sampled_from(LAYOUTS))
def test_codes_keep_within_their_ends(kind, values, layout):
    scales = kind.fit(values, layout)
    low, high = kind.ends
    for code in kind.encode(values, scales):
        assert code.shape == values.shape
        assert code.min() >= low
        assert code.max() <= high


@formats
@settings(max_examples=30)
@given(values=arrays, layout=st.sampled_from(LAYOUTS))
def test_gradients_pass_within_the_limits_alone(kind, values, layout):
    scales = kind.fit(values, layout)
    low, high = kind.limits(scales)
    assert (low <= high).all()
    slope = kind.slope(values, scales)
    assert slope.shape == values.shape
    assert (slope >= 0).all()
    if not isinstance(kind, DorefaWeights):
        outside = (values < scales.spread(low, values)) | (values > scales.spread(high, values))
        assert np.array_equal(slope == 0, outside)


def error(kind, values, layout=TENSOR):
    return float(np.square(values - kind.round(values, kind.fit(values, layout))).sum(dtype=np.float64))


def expected(kind, values, layout=TENSOR):
    """What the errors of the weights do to sums with inputs that have a mean."""
    return float(ALONE.error(layout.rows(values), layout.rows(kind.round(values, kind.fit(values, layout)))).sum())


MORE = {
    "integer": [Integer(bits) for bits in (2, 3, 4, 6, 8, 12, 16)],
    "asymmetric": [Integer(bits, symmetric=False) for bits in (2, 3, 4, 6, 8)],
    "fixed": [Fixed(bits) for bits in (2, 3, 4, 6, 8, 16)],
    "terms": [PowerOfTwo(k) for k in (1, 2, 3, 4)],
    "pure terms": [PowerOfTwo(k, scale="power") for k in (1, 2, 3, 4)],
    "budget": [FLightNN(mean_k=mean) for mean in (0, 0.5, 1, 1.5, 2)],
    "threshold": [FLightNN(k=3, threshold=threshold) for threshold in (0.5, 0.2, 0.1, 0.05, 0)],
}


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("seed", range(4))
def test_more_bits_err_less(name, seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((16, 200)) * rng.uniform(0.01, 4, (16, 1))).astype(np.float32)
    errors = [expected(kind, values, Layout(0)) for kind in MORE[name]]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


@settings(max_examples=30)
@given(values=arrays)
def test_a_larger_budget_never_errs_more(values):
    errors = [expected(kind, values, Layout(0)) for kind in MORE["budget"]]
    for before, after in pairwise(errors):
        assert after <= before * (1 + 1e-5) + 1e-7 * float(np.square(values).sum())


@pytest.mark.parametrize("seed", range(4))
def test_scales_of_their_own_err_less_than_one(seed):
    values = np.random.default_rng(seed).standard_normal((8, 60)).astype(np.float32) * np.arange(1, 9)[:, None]
    assert error(Integer(4), values, Layout(0)) < error(Integer(4), values)


def test_errors_that_add_up_count_more():
    """Rounding to the nearest makes all of these smaller; a wider scale does not."""
    values = np.array([[7.0] + [0.45] * 100], dtype=np.float32)
    kind = Integer(4)
    found = kind.round(values, kind.fit(values, Layout(0)))
    assert abs((values - found).sum()) < 0.5 * 0.45 * 100


class TestFixed:
    def test_codes_are_multiples_of_the_last_place(self):
        kind = Fixed(6, fraction=3)
        values = np.array([0.0, 0.1, 0.0625, -0.3, 3.875, 9, -4, -9], dtype=np.float32)
        scales = kind.fit(values)
        assert list(kind.encode(values, scales)[0]) == [0, 1, 0, -2, 31, 31, -32, -32]
        assert kind.round(values, scales)[-1] == -4

    @given(hnp.arrays(np.float32, 50, elements=st.floats(-(2.0**20), 2.0**20, width=32)), st.integers(2, 16))
    def test_the_point_stands_as_far_left_as_nothing_overflows(self, values, bits):
        kind = Fixed(bits, overflow=0)
        scales = kind.fit(values)
        step = float(scales.scale[0])
        assert np.log2(step) == round(np.log2(step))
        top = float(np.abs(values).max())
        if top > 1e-20:
            assert top <= step * (kind.ends[1] + 0.5)
            assert top > step / 2 * (kind.ends[1] + 0.5)

    @given(values=arrays, bits=st.integers(2, 8))
    def test_the_best_point_errs_no_more_than_others(self, values, bits):
        best = expected(Fixed(bits), values)
        for share in (0, 1e-4, 0.1):
            assert best <= expected(Fixed(bits, overflow=share), values) * (1 + 1e-5) + 1e-9

    def test_few_may_overflow(self):
        values = np.linspace(-1, 1, 10_000).astype(np.float32)
        values[:2] = 100
        assert Fixed(8, overflow=1e-4).fit(values).scale[0] == 1  # one in 10,000 may, these are two
        assert Fixed(8, overflow=1e-3).fit(values).scale[0] == 2.0**-6


class TestPowers:
    def test_the_table_has_a_sign_and_three_bits_of_exponent(self):
        table = PowerOfTwo().table
        assert len(table) == 16
        assert sorted(set(np.abs(table))) == [0, *(2.0**-e for e in range(6, -1, -1))]

    def test_pure_sums_have_as_many_terms_as_they_may(self):
        values = np.array([[0.75, -0.5, 0.3, 0.0]], dtype=np.float32)
        kind = PowerOfTwo(2, scale="power")
        first, second = (kind.table[code] for code in kind.encode(values, kind.fit(values, Layout(0))))
        scale = kind.fit(values, Layout(0)).scale[0]
        assert np.log2(scale) == round(np.log2(scale))
        assert list((first + second)[0] * scale) == [0.75, -0.5, 0.3125, 0.0]

    @given(st.floats(-2, 2, width=32))
    def test_greedy_is_as_good_as_the_best_sum_of_two(self, value):
        kind = PowerOfTwo(2, scale="power")
        scales = PowerOfTwo(2).fit(np.ones((1, 1), dtype=np.float32), Layout(0))
        scales.scale[:] = 1
        found = float(kind.round(np.float32([[value]]), scales)[0, 0])
        best = np.abs(kind.levels(scales) - np.float32(value)).min()
        assert abs(found - np.float32(value)) <= best + 2.0**-8

    @given(values=arrays, mean=st.sampled_from([0, 0.5, 1, 1.5, 2, 2.7]))
    def test_the_budget_is_kept(self, values, mean):
        kind = FLightNN(k=3, mean_k=mean)
        scales = kind.fit(values, Layout(0))
        assert scales.terms.sum() <= mean * 3
        assert kind.bits(scales) == pytest.approx(4 * scales.terms.mean())

    def test_a_filter_of_zeros_needs_no_term_and_a_power_of_two_one(self):
        values = np.array([[0, 0, 0], [1, -0.5, 2], [0.3, 0.41, 0.77]], dtype=np.float32)
        assert list(FLightNN(threshold=0.02, k=3).fit(values, Layout(0)).terms[:2]) == [0, 1]
        assert list(FLightNN(mean_k=1).fit(values, Layout(0)).terms) == [0, 1, 2]


class TestSigns:
    @given(values=arrays)
    def test_binary_scales_are_of_least_squared_error(self, values):
        kind, best = Binary(), error(Binary(), values, Layout(0))
        scales = kind.fit(values, Layout(0))
        for factor in (0.9, 1.1):
            moved = type(scales)(scales.layout, np.float32(factor) * scales.scale)
            other = float(np.square(values - kind.round(values, moved)).sum(dtype=np.float64))
            assert best <= other * (1 + 1e-5) + 1e-6

    def test_ternary_is_as_in_the_paper(self):
        values = np.array([[1.0, -0.2, 0.1, -3.0, 0.5]], dtype=np.float32)  # mean magnitude 0.96
        kind = Ternary()
        scales = kind.fit(values, Layout(0))
        assert list(kind.encode(values, scales)[0][0]) == [1, 0, 0, -1, 0]
        assert scales.scale[0] == 2.0

    @given(values=arrays)
    def test_two_scales_are_no_worse_than_one(self, values):
        one, two = error(Ternary(), values, Layout(0)), error(TwoScaleTernary(), values, Layout(0))
        assert two <= one * (1 + 1e-5) + 1e-6

    def test_two_scales_settle_on_three_clusters(self):
        rng = np.random.default_rng(0)
        centres = rng.choice([-0.5, 0.0, 1.5], (1, 600))
        values = (centres + 0.01 * rng.standard_normal((1, 600))).astype(np.float32)
        scales = TwoScaleTernary().fit(values, Layout(0))
        assert (scales.scale[0], scales.negative[0]) == (pytest.approx(1.5, abs=0.01), pytest.approx(0.5, abs=0.01))


class TestDorefa:
    def test_weights_are_those_of_the_paper(self):
        values = np.array([-2.0, -0.3, 0.0, 0.4, 1.0], dtype=np.float32)
        squashed = np.tanh(values) / (2 * np.tanh(2.0)) + 0.5
        expected = 2 * np.rint(squashed * 7) / 7 - 1
        kind = DorefaWeights(3)
        np.testing.assert_allclose(kind.round(values, kind.fit(values)), expected, rtol=1e-6)

    def test_one_bit_has_the_mean_magnitude(self):
        values = np.array([-2.0, -1.0, 0.5, 1.5], dtype=np.float32)
        kind = DorefaWeights(1)
        assert list(kind.round(values, kind.fit(values))) == [-1.25, -1.25, 1.25, 1.25]

    def test_slope_is_the_derivative_of_what_is_rounded(self):
        values = np.linspace(-1.5, 1.5, 7).astype(np.float32)
        kind, h = DorefaWeights(8), 1e-3
        scales = kind.fit(np.array([-2, 2], dtype=np.float32))

        def before_rounding(v):
            return np.tanh(v) / scales.peak

        expected = (before_rounding(values + h) - before_rounding(values - h)) / (2 * h)
        np.testing.assert_allclose(kind.slope(values, scales), expected, rtol=1e-2)

    def test_rescaled_weights_are_near_what_they_were(self):
        values = (0.05 * np.random.default_rng(0).standard_normal((8, 90))).astype(np.float32)
        plain, rescaled = error(DorefaWeights(4), values), error(DorefaWeights(4, rescaled=True), values, Layout(0))
        assert rescaled < 0.1 * float(np.square(values).sum()) < plain


class TestLayout:
    @given(hnp.arrays(np.float32, (5, 4, 2), elements=whole), st.sampled_from([1, 2, 3, 8]), st.integers(0, 2))
    def test_blocks_are_what_dequantize_linear_takes(self, values, block, axis):
        layout = Layout(axis, block)
        rows = layout.rows(values)
        maxima = np.abs(rows).max(axis=1)
        assert len(rows) == np.prod(layout.shape(values.shape))
        spread = layout.spread(maxima, values.shape)
        assert spread.shape == values.shape
        for start in range(0, values.shape[axis], block):
            part = np.take(values, range(start, min(start + block, values.shape[axis])), axis)
            own = np.take(spread, [start], axis)
            assert np.array_equal(np.abs(part).max(axis=axis, keepdims=True), own)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Integer(1),
        lambda: Integer(17),
        lambda: Fixed(1),
        lambda: Fixed(8, fraction=1000),
        lambda: Fixed(8, overflow=1),
        lambda: PowerOfTwo(0),
        lambda: PowerOfTwo(1, 9),
        lambda: FLightNN(k=1, mean_k=2),
        lambda: Ternary(-1),
        lambda: DorefaWeights(9),
        lambda: UnitActivations(0),
    ],
)
def test_formats_that_there_are_not(make):
    with pytest.raises(UsageError, match="not"):
        make()
