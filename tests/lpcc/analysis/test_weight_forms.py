from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.analysis.weight_forms import form_of

RNG = np.random.default_rng(0)


def signs(*shape: int) -> np.ndarray:
    return RNG.choice([-1.0, 1.0], shape)


def test_dense_weights_are_nothing_special() -> None:
    form = form_of(RNG.standard_normal((64, 32, 3, 3)).astype(np.float32))
    assert (form.shape, form.density, form.count) == ("dense", 1.0, 64 * 32 * 9)
    assert form.distinct > 256


def test_one_magnitude_a_channel_is_binary_and_with_zeros_ternary() -> None:
    scale = RNG.random((16, 1)) + 0.5
    assert form_of(signs(16, 40) * scale).shape == "binary"
    kept = RNG.random((16, 40)) < 0.7
    ternary = form_of(signs(16, 40) * scale * kept)
    assert (ternary.shape, ternary.density) == ("ternary", kept.mean())
    assert form_of(signs(16, 40) * RNG.random((16, 40))).shape == "dense"


@given(st.lists(st.tuples(st.integers(-12, 12), st.sampled_from([-1, 0, 1])), min_size=8, max_size=60))
def test_powers_of_two_take_one_term(values: list[tuple[int, int]]) -> None:
    weights = np.array([[sign * 2.0**power for power, sign in values]], np.float32)
    form = form_of(weights)
    assert form.shape in ("powers", "ternary", "binary", "dense")
    if form.shape == "dense":
        assert not weights.any()
    if form.shape == "powers":
        assert form.terms == 1


@pytest.mark.parametrize(("value", "terms"), [(3, 2), (7, 2), (31, 2), (96, 2), (5, 2), (64, 1), (-28, 2)])
def test_terms_may_be_subtracted(value: int, terms: int) -> None:
    form = form_of(np.array([[value, 1, 2, -4]], np.int8))
    assert (form.shape, form.terms) == ("powers", terms)


def test_more_than_two_terms_are_dense() -> None:
    assert form_of(np.array([[11, 1, 2, 4], [1, 2, 4, 8]], np.int8)).shape == "dense"


def test_a_late_dense_value_is_seen_beyond_the_sample() -> None:
    weights = np.ones((2, 1 << 17), np.float32)
    weights[0] = 2.0 ** RNG.integers(-4, 4, 1 << 17)
    assert form_of(weights).shape == "powers"
    weights[1, -2] = 0.7
    assert form_of(weights).shape == "dense"


def test_shared_values_and_their_entropy() -> None:
    form = form_of(RNG.integers(0, 16, (64, 64)).astype(np.float32) * 0.37)
    assert form.distinct == 15, "zero does not count"
    assert 3.8 < form.entropy <= 4.0
    assert form_of(np.zeros((4, 4), np.float32)).entropy == 0.0
