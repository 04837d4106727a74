from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.methods.als import Sweeps, Terms, alternate
from lpcc.passes.factorize.methods.correction import DEGENERATE, cancellation, corrected


def terms(shape: tuple[int, ...], rank: int, seed: int) -> Terms:
    rng = np.random.default_rng(seed)
    return Terms(tuple(rng.normal(size=(size, rank)) for size in shape))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([1.0, 1.01, 1.3]))
def test_the_bound_holds_and_the_norms_fall(seed: int, rank: int, slack: float) -> None:
    tensor = np.random.default_rng(seed).normal(size=(6, 5, 4))
    sweeps = Sweeps(tensor)
    before, _ = alternate(sweeps, terms((6, 5, 4), rank, seed), 10)
    bound = sweeps.residual(before) * slack
    after = corrected(sweeps, before, bound)
    assert np.square(tensor - after.tensor).sum() <= bound * (1 + 1e-8)
    assert np.square(after.norms).sum() <= np.square(before.norms).sum() * (1 + 1e-8)
    if slack > 1:
        assert np.square(after.norms).sum() < np.square(before.norms).sum()


def test_cancelling_terms_become_as_small_as_the_tensor() -> None:
    """Two terms a thousand times as large as their difference: one term is all that is needed."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(6, 1)) for _ in range(3))
    wanted = Terms((a, b, c))
    close = Terms((np.hstack([a, a]), np.hstack([b, b]), np.hstack([c * 1001, c * -1000])))
    norm = float(np.linalg.norm(wanted.tensor))
    assert cancellation(close, norm) > 1000
    after = corrected(Sweeps(wanted.tensor), close, 1e-6 * norm**2)
    assert cancellation(after, norm) < 1
    assert np.square(wanted.tensor - after.tensor).sum() <= 1e-6 * norm**2 * (1 + 1e-8)


def test_the_ridge_is_the_largest_that_keeps_the_bound() -> None:
    """Of one term the optimum is known: the best term, scaled down until the error is the bound."""
    rng = np.random.default_rng(1)
    tensor = rng.normal(size=(5, 4, 3))
    sweeps = Sweeps(tensor)
    best, share = alternate(sweeps, terms((5, 4, 3), 1, 0), 500, 0.0)
    bound = (share + 0.1) * sweeps.energy
    after = corrected(sweeps, best, bound, most=300, tolerance=0.0)
    assert sweeps.residual(after) == pytest.approx(bound)
    largest = float(best.norms[0])
    # |T - x t|^2 = |T|^2 - 2 x largest + x^2 for a term x t along the best
    assert float(after.norms[0]) == pytest.approx(largest - (0.1 * sweeps.energy) ** 0.5, rel=1e-3)


def test_terms_at_right_angles_do_not_cancel() -> None:
    eye = np.eye(5)[:, :4]
    found = Terms((eye, eye, eye))
    assert cancellation(found, float(np.linalg.norm(found.tensor))) == pytest.approx(1.0)
    assert cancellation(found, float(np.linalg.norm(found.tensor))) < DEGENERATE
    assert cancellation(Terms((eye * 0, eye, eye)), 0.0) == 0.0


def test_terms_of_zeros_stay_zeros() -> None:
    rng = np.random.default_rng(2)
    factors = [rng.normal(size=(4, 3)) * [1, 0, 1] for _ in range(3)]
    found = Terms(tuple(factors))
    tensor = found.tensor + 0.1 * rng.normal(size=(4, 4, 4))
    sweeps = Sweeps(tensor)
    after = corrected(sweeps, found, sweeps.residual(found))
    assert after.norms[1] < 1e-4 * after.norms.max()
    assert np.isfinite(after.tensor).all()
