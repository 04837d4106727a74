from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.errors import UsageError
from lpcc.targets.fit.least_squares import fit_relative


@given(st.integers(0, 10**6))
def test_finds_the_coefficients_of_exact_measurements(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = np.exp(rng.normal(size=(20, 3))) * [1, 1e3, 1e6]  # terms of very different size
    wanted = rng.uniform(0.1, 2, 3) / [1, 1e3, 1e6]
    assert fit_relative(features, features @ wanted) == pytest.approx(wanted, rel=1e-4)


def test_coefficients_are_never_negative() -> None:
    features = np.array([[1.0, 1], [2, 1], [3, 1]])
    found = fit_relative(features, [1.0, 0.9, 0.8])
    assert (found >= 0).all()
    assert found[0] == 0


def test_small_measurements_count_as_much_as_large_ones() -> None:
    features = np.array([[1.0], [1000]])
    (found,) = fit_relative(features, [1.0, 2000.0])
    assert found == pytest.approx(1.5 / 1.25)  # of (c - 1)^2 + (c / 2 - 1)^2


def test_shrinkage_holds_to_the_prior() -> None:
    features = np.array([[1.0, 0], [0, 1]])
    prior = np.array([1.0, 0])
    loose = fit_relative(features, [2.0, 2.0], prior=prior, shrinkage=1e-9)
    tight = fit_relative(features, [2.0, 2.0], prior=prior, shrinkage=1e6)
    assert loose == pytest.approx([2, 2], rel=1e-3)
    assert tight == pytest.approx([1, 2], rel=1e-3)


def test_weights_say_whom_to_believe() -> None:
    features = np.ones((2, 1))
    (found,) = fit_relative(features, [1.0, 3.0], weights=[1.0, 0.0])
    assert found == pytest.approx(1)


@pytest.mark.parametrize("measured", [[], [0.0, 1.0], [-1.0, 1.0], [float("nan"), 1.0]])
def test_measurements_are_above_0(measured: list[float]) -> None:
    with pytest.raises(UsageError, match="above 0"):
        fit_relative(np.ones((len(measured), 1)), measured)
