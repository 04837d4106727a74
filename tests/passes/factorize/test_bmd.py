from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.factors import relative_error
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.bmd import Bmd
from lpcc.passes.factorize.methods.svd import Svd


def form(*shape: int, seed: int = 0) -> Form:
    return Form("Conv", np.random.default_rng(seed).standard_normal(shape))


def moments(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 1) @ x / x.shape[1]


@pytest.mark.parametrize(("shape", "rank"), [((3, 2, 3, 3), 1), ((3, 2, 3, 3), 3), ((4, 3, 2, 3), 2)])
def test_it_is_the_best_separable_approximation(shape, rank):
    """No pair of a column and a row layer that an optimiser finds is closer, and it finds one as close."""
    own = form(1, *shape)
    outputs, inputs, height, width = shape
    cut = rank * inputs * height

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        columns = numbers[:cut].reshape(rank, inputs, height)
        across = numbers[cut:].reshape(outputs, rank, width)
        lost = np.einsum("kcy,nkx->ncyx", columns, across) - own.tensor[0]
        slope = [np.einsum("ncyx,nkx->kcy", lost, across), np.einsum("ncyx,kcy->nkx", lost, columns)]
        return float(np.square(lost).sum()), 2 * np.concatenate([part.ravel() for part in slope])

    rng = np.random.default_rng(1)
    size = cut + outputs * rank * width
    runs = [scipy.optimize.minimize(loss, rng.standard_normal(size), jac=True).fun for _ in range(8)]
    mine = np.square(Bmd(own).factors((rank,)).tensor - own.tensor).sum()
    assert min(runs) >= mine - 1e-9
    assert min(runs) == pytest.approx(mine, rel=1e-5)
    assert Bmd(own).error((rank,)) == pytest.approx(mine / np.square(own.tensor).sum())


def test_the_layers_are_columns_and_rows():
    own = form(1, 4, 3, 3, 5)
    columns, across = Bmd(own).factors((2,)).stages
    assert (columns.tensor.shape, columns.axes) == ((1, 2, 3, 3, 1), (0,))
    assert (across.tensor.shape, across.axes) == ((1, 4, 2, 1, 5), (1,))
    made = np.einsum("kcy,nkx->ncyx", columns.tensor[0, ..., 0], across.tensor[0, :, :, 0])
    np.testing.assert_allclose(made, Bmd(own).factors((2,)).tensor[0])


@pytest.mark.parametrize(
    ("kernel", "ahead", "full"),
    [
        ((3,), (), 4),  # (C) by (w N)
        ((3, 3), (0,), 12),
        ((1, 3), (0,), 4),
        ((3, 1), (1,), 4),
        ((2, 3, 5), (0,), 8),  # (C d) by (h w N)
        ((1, 3, 3), (0, 1), 12),
        ((1, 1), (0, 1), 4),
        ((), (), 4),
    ],
)
def test_which_layer_moves_where(kernel, ahead, full):
    found = Bmd(form(1, 6, 4, *kernel))
    first, last = found.factors((2,)).stages
    assert first.axes == ahead
    assert sorted((*first.axes, *last.axes)) == list(range(len(kernel)))
    assert found.full == (full,)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=3), st.data())
def test_full_rank_basis_and_data(groups, outputs, inputs, kernel, data):
    own = form(groups, outputs, inputs, *kernel, seed=data.draw(st.integers(0, 99)))
    depth = own.matrix.shape[1]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = moments(rng.standard_normal((groups, 2 * depth, depth)) @ rng.standard_normal((groups, depth, depth)))
    try:
        found, aware = Bmd(own), Bmd(own, x)
    except Declined as why:
        assert "fewer weights" in str(why)  # noqa: PT017
        return
    assert found.error(found.full) == 0.0
    np.testing.assert_allclose(found.factors(found.full).tensor, own.tensor, atol=1e-9)
    np.testing.assert_allclose(aware.factors(found.full).tensor, own.tensor, atol=1e-4)
    rank = (data.draw(st.integers(1, found.full[0])),)
    factors = aware.factors(rank)
    assert aware.error(rank) == pytest.approx(relative_error(own, factors, x), rel=1e-6, abs=1e-9)
    assert aware.error(rank) <= relative_error(own, found.factors(rank), x) + 1e-6
    assert aware.error(rank) <= relative_error(own, found.factors(rank).refined(own, x), x) + 1e-6
    for own_factors in (factors, found.factors(rank)):
        made = own.with_matrix(own_factors.basis @ own_factors.last)
        np.testing.assert_allclose(made.tensor, own_factors.tensor, atol=1e-9)


def test_the_metric_finds_what_refinement_alone_does_not():
    """Moments of the kind that images give: a product of channels and of places, near ones alike."""
    rng = np.random.default_rng(0)
    own = form(1, 12, 8, 3, 3)
    mixed = rng.standard_normal((8, 8)) * np.geomspace(1, 0.02, 8)
    near = 0.9 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    x = np.kron(np.kron(mixed @ mixed.T, near), near)[None]
    plain, aware = Bmd(own).factors((6,)), Bmd(own, x)
    after = relative_error(own, plain.refined(own, x), x)
    assert aware.error((6,)) < 0.7 * after < relative_error(own, plain, x)


def test_where_moments_are_a_product_nothing_is_left_to_refine():
    """S x T with T over the rows of the window: the first layer is the optimum, found by a numerical optimiser."""
    rng = np.random.default_rng(0)
    outputs, inputs, height, width, rank = 3, 2, 2, 2, 2
    own = form(1, outputs, inputs, height, width)
    s, t = (np.cov(rng.standard_normal((size, 3 * size))) for size in (inputs * height, width))
    x = np.kron(s, t)[None]

    def loss(numbers: np.ndarray) -> float:
        columns = numbers[: rank * inputs * height].reshape(rank, inputs, height)
        across = numbers[rank * inputs * height :].reshape(outputs, rank, width)
        lost = own.tensor[0] - np.einsum("kcy,nkx->ncyx", columns, across)
        lost = lost.reshape(outputs, -1)
        return float(np.einsum("na,ab,nb->", lost, x[0], lost))

    size = rank * (inputs * height + outputs * width)
    best = min(scipy.optimize.minimize(loss, rng.standard_normal(size)).fun for _ in range(10))
    whole = float(((x @ own.matrix) * own.matrix).sum())
    assert Bmd(own, x).error((rank,)) == pytest.approx(best / whole, rel=1e-3)


def test_the_metric_leaves_out_what_different_places_have_in_common():
    """Most of what two places show is opposite: it cancels in the sum over pairs, not in the mean of each alone."""
    rng = np.random.default_rng(0)
    own = form(1, 8, 6, 3, 2)
    basis = np.linalg.qr(rng.standard_normal((18, 18)))[0]
    values = np.geomspace(1, 1e-4, 18)
    both = basis * values @ basis.T
    opposite = basis * (values * (np.arange(18) < 9)) @ basis.T
    x = (np.kron(both, np.eye(2)) - 0.999 * np.kron(opposite, 1 - np.eye(2)))[None]
    plain = Bmd(own).factors((4,)).refined(own, x)
    assert Bmd(own, x).error((4,)) < 0.7 * relative_error(own, plain, x)


def test_depthwise_layers_gain_where_the_kernel_is_large():
    factors = Bmd(form(8, 1, 1, 3, 3)).factors((1,))
    assert [stage.tensor.shape for stage in factors.stages] == [(8, 1, 1, 3, 1), (8, 1, 1, 1, 3)]
    assert factors.parameters == 8 * 6
    with pytest.raises(Declined, match="at no rank has bmd fewer weights"):
        Bmd(form(8, 1, 1, 2, 2))


def test_one_pixel_is_the_svd(rows):
    own = form(2, 6, 5, 1, 1)
    for x in (None, moments(rows(2, 5, 40))):
        np.testing.assert_allclose(Bmd(own, x).factors((2,)).tensor, Svd(own, x).factors((2,)).tensor)
        assert Bmd(own, x).error((2,)) == Svd(own, x).error((2,))
    assert Bmd(own).factors((2,)).method == "bmd"


@pytest.mark.parametrize("rank", [(), (0,), (10,), (1, 1)])
def test_ranks_that_are_none(rank):
    found = Bmd(form(1, 4, 3, 3, 3))
    assert found.full == (9,)
    for call in (found.factors, found.error, Bmd(found.form, np.eye(27)[None]).error):
        with pytest.raises(ValueError, match="rank"):
            call(rank)


def test_large_layers_take_seconds():
    own = form(1, 512, 512, 3, 3)
    start = time.process_time()
    found = Bmd(own)
    factors = found.factors((400,))
    assert time.process_time() - start < 20
    assert found.error((400,)) == pytest.approx(relative_error(own, factors, None), rel=1e-9)
