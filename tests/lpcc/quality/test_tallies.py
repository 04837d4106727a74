from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcc.quality import Difference, Hits, in_top, same_choice, scores
from lpcc.quality.tallies import Noise

NUMBERS = st.floats(-1e6, 1e6, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)
PAIRS = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=NUMBERS), hnp.arrays(np.float32, shape, elements=NUMBERS)
    )
)


def of(*pairs: tuple[object, object]) -> Difference:
    d = Difference()
    for reference, candidate in pairs:
        d.add(np.asarray(reference), np.asarray(candidate))
    return d


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_streaming_equals_the_formula(pair: tuple[np.ndarray, np.ndarray], size: int) -> None:
    r, c = (x.astype(np.float64) for x in pair)
    d = of(*((pair[0][i : i + size], pair[1][i : i + size]) for i in range(0, len(r), size)))
    noise, signal = ((r - c) ** 2).sum(), (r**2).sum()
    if noise == 0:
        assert d.sqnr_db == math.inf
        assert d.mean_relative_error == d.max_relative_error == 0
    elif signal == 0:
        assert d.sqnr_db == -math.inf
        assert d.mean_relative_error == d.max_relative_error == math.inf
    else:
        assert d.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-6)
        assert d.mean_relative_error == pytest.approx(np.abs(r - c).sum() / np.abs(r).sum())
        assert d.max_relative_error == pytest.approx(np.abs(r - c).max() / np.abs(r).max())
    if signal and (c**2).sum():
        assert d.cosine == pytest.approx((r * c).sum() / np.sqrt(signal * (c**2).sum()), abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_value_is_the_worst_there_is(bad: float) -> None:
    for d in (of(([1, 2], [1, bad])), of(([1, bad], [1, 2])), of(([1, 2], [1, 2]), ([1.0], [bad]), ([3], [3]))):
        assert d.sqnr_db == -math.inf
        assert d.cosine == -1
        assert d.mean_relative_error == d.max_relative_error == math.inf


def test_the_same_broken_value_on_both_sides_is_equal() -> None:
    values = [1.0, np.nan, np.inf, -np.inf]
    d = of((values, values))
    assert d.sqnr_db == math.inf
    assert d.cosine == 1
    assert d.max_relative_error == 0
    assert of(([np.inf], [-np.inf])).sqnr_db == -math.inf


def test_outputs_without_signal() -> None:
    assert of(([0.0, 0.0], [0.0, 0.0])).sqnr_db == math.inf
    assert of(([0.0, 0.0], [0.0, 0.0])).cosine == 1
    assert of(([0.0], [1.0])).sqnr_db == -math.inf
    assert of(([0.0], [1.0])).cosine == 0
    assert of(([1.0], [0.0])).sqnr_db == 0
    assert Difference().sqnr_db == math.inf


def test_other_shapes_are_the_worst() -> None:
    assert of((np.ones(3), np.ones(4))).sqnr_db == -math.inf


def test_integers_and_booleans_are_numbers() -> None:
    assert of((np.array([200], np.uint8), np.array([201], np.uint8))).max_relative_error == pytest.approx(1 / 200)
    assert of((np.array([201], np.uint8), np.array([200], np.uint8))).max_relative_error == pytest.approx(1 / 201)
    assert of((np.array([True, False]), np.array([True, True]))).mean_relative_error == 1


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.integers(-3, 3)),
    st.integers(1, 5),
)
def test_in_top_is_a_stable_sort(x: np.ndarray, k: int) -> None:
    labels = np.random.default_rng(len(x)).integers(0, x.shape[1], len(x))
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(in_top(x, labels, k), (order == labels[:, None]).any(axis=1))
    np.testing.assert_array_equal(in_top(x, labels, 1), x.argmax(1) == labels)


def test_rows_with_nan_are_never_hits() -> None:
    x = np.array([[1, 2, np.nan], [1, 2, 3]], np.float32)
    assert in_top(x, np.array([2, 2]), 3).tolist() == [False, True]
    sound = np.array([[1, 2, 3], [1, 2, 3]], np.float32)
    assert same_choice(sound, x).tolist() == [False, True]
    assert same_choice(x, x).tolist() == [True, True]


def test_same_choice() -> None:
    a = np.array([[0, 1], [1, 0], [2, 2]])
    assert same_choice(a, np.array([[0, 9], [0, 1], [5, 0]])).tolist() == [True, False, True]
    assert same_choice(a, np.zeros((3, 3))).tolist() == [False] * 3


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 10), (4, 10)), ((4, 10, 1, 1), (4, 10)), ((4, 1), None), ((4, 10, 2), None), ((4,), None), ((), None)],
)
def test_what_scores_are(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    found = scores(np.zeros(shape, np.float32))
    assert (None if found is None else found.shape) == expected
    assert scores(np.zeros((4, 3), bool)) is None


def test_hits() -> None:
    hits = Hits()
    assert math.isnan(hits.percent)
    hits.add(np.array([True, False]))
    hits.add(np.array([True, True]))
    assert hits.percent == 75


def test_hits_by_weight() -> None:
    hits = Hits()
    hits.add(np.array([True, False, True]), np.array([0.5, 0.1, 0.2]))
    hits.add(np.array([False]), np.array([0.2]))
    assert hits.percent == pytest.approx(70)


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.sampled_from([0.0, math.nan, math.inf]), st.booleans())
def test_noise_alone_is_the_same_ratio(pair: tuple[np.ndarray, np.ndarray], odd: float, twice: bool) -> None:
    reference, candidate = (array.copy() for array in pair)
    if odd:
        reference.flat[0] = odd
        candidate.flat[0] = odd if twice else 1.0
    whole, noise = Difference(), Noise()
    for tally in (whole, noise):
        tally.add(reference, candidate)
        tally.add(pair[0], pair[1])
    assert noise.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-3)
    noise.add(np.zeros(2, np.float32), np.zeros(3, np.float32))
    assert noise.sqnr_db == -math.inf
