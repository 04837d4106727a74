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


def test_either_sign_may_have_a_magnitude_of_its_own() -> None:
    up, down = RNG.random((16, 1)) + 0.5, RNG.random((16, 1)) + 0.5
    drawn = RNG.choice([-1.0, 0.0, 1.0], (16, 40))
    form = form_of(np.where(drawn > 0, drawn * up, drawn * down))
    assert (form.shape, form.bits) == ("ternary", 2)
    assert form_of(signs(16, 2) * RNG.random((16, 2))).shape == "dense", "two weights say nothing"


def test_channels_may_need_different_numbers_of_terms() -> None:
    weights = np.array([[1, 2, 4, 8], [3, 5, 7, 9], [0, 0, 0, 0], [1, 1, 1, 6]], np.float32)
    form = form_of(weights)
    assert (form.shape, form.terms, form.mean_terms) == ("powers", 2, 5 / 4)


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        (signs(4, 40), 1),
        (signs(4, 40) * (RNG.random((4, 40)) < 0.5), 2),
        (RNG.integers(-7, 8, (64, 64)), 4),
        (RNG.integers(-127, 128, (64, 64)), 8),
        (RNG.standard_normal((64, 64)), 32),
    ],
)
def test_bits_tell_values_apart(weights: np.ndarray, bits: int) -> None:
    assert form_of(weights).bits == bits
