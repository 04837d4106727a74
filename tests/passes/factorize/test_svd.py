from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.factors import relative_error
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.pair import principal
from lpcc.passes.factorize.methods.svd import Svd


def form(*shape: int, seed: int = 0) -> Form:
    return Form("Conv", np.random.default_rng(seed).standard_normal(shape))


def moments(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 1) @ x / x.shape[1]


@pytest.mark.parametrize("shape", [(1, 9, 5), (1, 5, 9), (1, 6, 4, 3, 3), (1, 40, 2, 3, 3), (3, 4, 5, 2, 1)])
def test_without_data_it_is_the_truncated_svd(shape):
    own = form(*shape)
    found = Svd(own)
    values = np.linalg.svd(own.matrix, compute_uv=False)
    assert found.full == (values.shape[1],)
    for rank in range(1, found.full[0] + 1):
        best = np.square(values[:, rank:]).sum() / np.square(values).sum()
        factors = found.factors((rank,))
        assert found.error((rank,)) == pytest.approx(best, abs=1e-12)
        assert relative_error(own, factors, None) == pytest.approx(best, abs=1e-12)
        np.testing.assert_allclose(factors.basis @ factors.last, own.with_matrix(factors.basis @ factors.last).matrix)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(2, 8), st.integers(2, 8), st.integers(1, 3), st.integers(0, 99), st.data())
def test_with_data_it_is_reduced_rank_regression(groups, outputs, inputs, taps, seed, data):
    """The least loss of ``X (W - W')`` over all W' of rank K: what an SVD of ``X W`` leaves."""
    own = form(groups, outputs, inputs, taps, seed=seed)
    rng = np.random.default_rng(seed + 1)
    depth = inputs * taps
    x = rng.standard_normal((groups, 3 * depth, depth)) @ rng.standard_normal((groups, depth, depth))
    try:
        found = Svd(own, moments(x))
    except Declined:
        return
    rank = data.draw(st.integers(1, found.full[0]))
    made = x @ own.matrix
    left = sum(float(np.square(scipy.linalg.svdvals(group)[rank:]).sum()) for group in made)
    best = left / np.square(made).sum()
    factors = found.factors((rank,))
    lost = made - x @ (factors.basis @ factors.last)
    on_rows = np.square(lost).sum() / np.square(made).sum()
    assert on_rows == pytest.approx(best, rel=1e-4, abs=1e-6)
    assert found.error((rank,)) == pytest.approx(on_rows, rel=1e-9, abs=1e-9)
    assert relative_error(own, factors, moments(x)) == pytest.approx(on_rows, rel=1e-9, abs=1e-9)
    assert on_rows <= relative_error(own, Svd(own).factors((rank,)), moments(x)) + 1e-6


def test_data_counts(rows):
    own = form(1, 8, 8)
    x = moments(rows(1, 8, 100))
    assert Svd(own, x).error((3,)) < 0.7 * relative_error(own, Svd(own).factors((3,)), x)


def test_where_no_row_shows_anything_the_weights_count():
    """Moments of one row say one thing; what is left of the ranks goes to the weights."""
    own = form(1, 8, 8)
    x = np.random.default_rng(5).standard_normal((1, 1, 8))
    found = Svd(own, moments(x))
    assert found.error((1,)) < 1e-9
    best = np.square(scipy.linalg.svdvals(own.matrix[0])[5:]).sum() / np.square(own.matrix).sum()
    assert relative_error(own, found.factors((5,)), None) < 1.5 * best
    nothing = Svd(own, np.zeros((1, 8, 8)))
    assert nothing.error((2,)) == 0.0
    np.testing.assert_allclose(nothing.factors((2,)).tensor, Svd(own).factors((2,)).tensor)


def test_full_rank_is_exact_for_weights_of_any_condition(rows):
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((20, 12)))[0], np.linalg.qr(rng.standard_normal((12, 12)))[0]
    own = Form("MatMul", (left * np.geomspace(1, 1e-13, 12) @ right)[None])
    for x in (None, moments(rows(1, 12, 3))):
        np.testing.assert_allclose(Svd(own, x).factors((12,)).tensor, own.tensor, atol=1e-15)
    repeated = Form("MatMul", np.ones((1, 6, 7)))
    np.testing.assert_allclose(Svd(repeated).factors((1,)).tensor, repeated.tensor)
    assert Svd(repeated).error((1,)) < 1e-15


def test_the_two_layers_share_the_norm():
    factors = Svd(form(2, 6, 5, 3, 3)).factors((4,))
    first, last = (stage.tensor for stage in factors.stages)
    before = np.linalg.norm(first.reshape(2, 4, -1), axis=2)
    np.testing.assert_allclose(before, np.linalg.norm(last[..., 0, 0], axis=1))


def test_stages_of_grouped_layers():
    factors = Svd(form(3, 6, 5, 3, 3)).factors((4,))
    assert [stage.tensor.shape for stage in factors.stages] == [(3, 4, 5, 3, 3), (3, 6, 4, 1, 1)]
    assert [stage.axes for stage in factors.stages] == [(0, 1), ()]
    assert factors.method == "svd"


def test_zero_channels_and_zero_weights():
    own = form(1, 6, 5, 3)
    own.tensor[:, 2] = 0
    found = Svd(own)
    assert np.isfinite(found.factors((6,)).stages[0].tensor).all()
    np.testing.assert_allclose(found.factors((3,)).tensor[:, 2], 0, atol=1e-14)
    nothing = Svd(Form("Conv", np.zeros((1, 4, 3, 3, 3))))
    assert nothing.error((1,)) == 0.0
    assert not nothing.factors((2,)).tensor.any()


@pytest.mark.parametrize("shape", [(8, 1, 1, 3, 3), (1, 1, 20, 3, 3), (1, 2, 2), (4, 3, 1)])
def test_what_gains_nothing_is_declined(shape):
    with pytest.raises(Declined, match="at no rank has svd fewer weights"):
        Svd(form(*shape))


@pytest.mark.parametrize("rank", [(), (0,), (-1,), (5,), (1, 1)])
def test_ranks_that_are_none(rank):
    found = Svd(form(1, 4, 3, 3, 3))
    assert found.full == (4,)
    with pytest.raises(ValueError, match=r"rank"):
        found.factors(rank)
    with pytest.raises(ValueError, match=r"rank"):
        found.error(rank)


@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 9, 5)])
def test_principal_directions_are_eigenvectors(shape, rows):
    matrix = np.random.default_rng(0).standard_normal(shape)
    metric = moments(rows(2, shape[1], 50))
    directions, energies = principal(matrix, metric)
    np.testing.assert_allclose(
        directions.swapaxes(1, 2) @ directions, np.broadcast_to(np.eye(5), (2, 5, 5)), atol=1e-12
    )
    product = matrix.swapaxes(1, 2) @ metric @ matrix
    np.testing.assert_allclose(product @ directions, directions * energies[:, None], atol=1e-4 * product.max())
    assert (np.diff(energies, axis=1) < 1e-6 * energies.max()).all()
