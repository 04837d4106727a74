"""What errors of weights count for, against its definition, and the search for the least."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.formats.search import ALONE, WITH_BIAS, Objective, least_error, rounded

ROWS = np.random.default_rng(0).normal(size=(3, 40))


@pytest.mark.parametrize("objective", [ALONE, WITH_BIAS, Objective(0.3, 2.0)])
def test_the_error_is_that_of_the_equation(objective: Objective) -> None:
    lost = 0.1 * np.random.default_rng(1).normal(size=ROWS.shape) + 0.02
    for row, e, found in zip(ROWS, lost, objective.error(ROWS, ROWS - lost), strict=True):
        along = (e @ row) ** 2 / (row @ row)
        assert found == pytest.approx(e @ e + objective.mean * e.sum() ** 2 + objective.along * along)


@given(st.integers(0, 99), st.sampled_from([0.0, 1.0, 10.0]))
def test_the_scale_of_given_levels_has_the_least_error(seed: int, along: float) -> None:
    rng = np.random.default_rng(seed)
    objective = Objective(0.0, along)
    rows, levels = rng.normal(size=(4, 20)), rng.integers(-3, 4, (4, 20)).astype(float)
    best = objective.scale(rows, levels)[:, None]
    least = objective.error(rows, levels * best)
    for other in (best * 0.99, best * 1.01, best + 1e-3):
        assert (objective.error(rows, levels * other) >= least - 1e-12).all()


def test_turns_only_help_and_the_floor_holds() -> None:
    rows = ROWS.astype(np.float32)
    first = np.abs(rows).max(axis=1) / 3

    def nearest(units: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(units), -3, 3)

    start = least_error(rows, [first], nearest, 0, WITH_BIAS)
    better = least_error(rows, [first], nearest, 4, WITH_BIAS)
    errors = [WITH_BIAS.error(rows, rounded(rows, scale, nearest)) for scale in (start, better)]
    assert (errors[1] <= errors[0]).all()
    assert (errors[1] < errors[0]).any()
    assert (least_error(rows, [first], nearest, 4, WITH_BIAS, floor=first * 2) >= first * 2).all()


def test_rows_of_zeros_have_no_error() -> None:
    zeros = np.zeros((2, 5), np.float32)
    assert not WITH_BIAS.error(zeros, zeros).any()
    assert (least_error(zeros, [np.zeros(2)], np.rint, 2) > 0).all()
