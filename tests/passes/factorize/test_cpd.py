from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.factors import Factors, relative_error
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods import cpd
from lpcc.passes.factorize.methods.als import Sweeps, Terms, alternate
from lpcc.passes.factorize.methods.correction import DEGENERATE, cancellation
from lpcc.passes.factorize.methods.cpd import Cpd, SeparableCpd, closest, metric_roots
from lpcc.passes.factorize.methods.starts import triples
from lpcc.passes.factorize.methods.svd import Svd

METHODS = [Cpd, SeparableCpd]


def form(tensor: np.ndarray, op: str = "Conv") -> Form:
    """A layer of stride 1 with weights (groups, N, C, *kernel)."""
    axes = tensor.ndim - 3
    return Form(op, tensor, (1,) * axes, (1,) * axes, (0,) * 2 * axes, (0,) * axes)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def smooth(outputs: int, inputs: int, size: int, seed: int = 0) -> np.ndarray:
    """Weights with the spectra of trained ones: a few directions of outputs and inputs hold most of the energy."""
    rng = np.random.default_rng(seed)
    tensor = rng.normal(size=(outputs, inputs, size, size))
    tensor *= np.exp(-np.arange(outputs) / outputs * 4)[:, None, None, None]
    tensor *= np.exp(-np.arange(inputs) / inputs * 4)[:, None, None]
    left = np.linalg.qr(rng.normal(size=(outputs, outputs)))[0]
    right = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0]
    return np.einsum("nchw,mn,dc->mdhw", tensor, left, right)


def moments(form: Form, seed: int = 0, rows: int = 4000) -> np.ndarray:
    """Of correlated rows: neighbours in the window and channels have much in common."""
    rng = np.random.default_rng(seed)
    depth = form.matrix.shape[1]
    mixing = rng.normal(size=(depth, depth)) * np.exp(-np.arange(depth) / depth * 2)[:, None]
    read = rng.normal(size=(rows, depth)) @ mixing
    return np.broadcast_to(read.T @ read / rows, (form.groups, depth, depth)).copy()


def same(left: Factors, right: Factors) -> bool:
    return all(np.array_equal(a.tensor, b.tensor) for a, b in zip(left.stages, right.stages, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_tensors_of_a_rank_are_found_again(method: type[Cpd], rank: int) -> None:
    parts = [normal(size, rank, seed=size) for size in (12, 10, 3, 3)]
    layer = form(np.einsum("nr,cr,hr,wr->nchw", *parts)[None])
    assert method(layer).error((rank,)) < 1e-10


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_errors_are_never_above_those_of_tensorly(seed: int, rank: int) -> None:
    compare(normal(9, 8, 3, 2, seed=seed), rank)


@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(24, 16, 10), (24, 16, 40), (32, 32, 20), (96, 64, 40)])
def test_errors_on_weights_like_trained_ones_are_never_above_those_of_tensorly(
    outputs: int, inputs: int, rank: int
) -> None:
    compare(smooth(outputs, inputs, 3), rank)


def compare(tensor: np.ndarray, rank: int) -> None:
    import tensorly
    from tensorly.decomposition import parafac

    flat = tensor.reshape(*tensor.shape[:2], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more terms than singular vectors
        found = tensorly.cp_to_tensor(parafac(flat, rank, init="svd", random_state=0))
    wanted = np.square(flat - found).sum() / np.square(flat).sum()
    assert Cpd(form(tensor[None])).error((rank,)) <= wanted * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape",
    [(1, 6, 4, 3, 3), (1, 4, 9, 1, 5), (1, 5, 3, 4, 2), (2, 4, 3, 3, 3), (1, 7, 6, 3), (1, 4, 3, 2, 3, 2)],
)
def test_nothing_is_lost_at_full_rank(method: type[Cpd], shape: tuple[int, ...]) -> None:
    layer = form(normal(*shape))
    found = method(layer)
    factors = found.factors(found.full)
    np.testing.assert_allclose(factors.tensor, layer.tensor, atol=1e-10)
    assert found.error(found.full) < 1e-20
    with pytest.raises(ValueError, match="is not between"):
        found.factors((found.full[0] + 1,))


def test_full_is_never_above_the_product_of_all_modes_but_the_largest() -> None:
    assert Cpd(form(normal(1, 30, 4, 3, 3))).full == (4 * 9,)
    assert SeparableCpd(form(normal(1, 30, 4, 3, 3))).full == (4 * 9,)
    assert Cpd(form(np.einsum("n,c,k->nck", normal(8), normal(6), np.eye(3)[0])[None])).full == (1,)


@pytest.mark.parametrize("method", METHODS)
def test_stages_are_thin_layers_around_depthwise_ones(method: type[Cpd]) -> None:
    found = method(form(normal(2, 8, 6, 3, 5))).factors((4,))
    shapes = [stage.tensor.shape for stage in found.stages]
    axes = [stage.axes for stage in found.stages]
    if method is Cpd:
        assert shapes == [(2, 4, 6, 1, 1), (8, 1, 1, 3, 5), (2, 8, 4, 1, 1)]
        assert axes == [(), (0, 1), ()]
    else:
        assert shapes == [(2, 4, 6, 1, 1), (8, 1, 1, 3, 1), (8, 1, 1, 1, 5), (2, 8, 4, 1, 1)]
        assert axes == [(), (0,), (1,), ()]


def test_axes_of_size_1_go_with_a_depthwise_layer() -> None:
    found = SeparableCpd(form(normal(1, 8, 6, 1, 5, 3))).factors((4,))
    assert [stage.axes for stage in found.stages] == [(), (0, 1), (2,), ()]


@pytest.mark.parametrize("method", METHODS)
def test_with_one_input_channel_the_first_two_layers_are_one(method: type[Cpd]) -> None:
    layer = form(normal(1, 32, 1, 3, 3))
    found = method(layer)
    assert found.factors((3,)).stages[0].tensor.shape == ((1, 3, 1, 3, 3) if method is Cpd else (1, 3, 1, 3, 1))
    np.testing.assert_allclose(found.factors(found.full).tensor, layer.tensor, atol=1e-10)
    if method is Cpd:  # a matrix: the SVD is the optimum
        assert found.error((3,)) == pytest.approx(Svd(layer).error((3,)))


@pytest.mark.parametrize("shape", [(1, 12, 9), (1, 12, 9, 1, 1), (2, 6, 5, 1)])
@pytest.mark.parametrize("aware", [False, True])
def test_of_layers_of_one_pixel_it_is_the_svd(shape: tuple[int, ...], aware: bool) -> None:
    layer = form(normal(*shape), "Conv" if len(shape) > 3 else "MatMul")
    known = moments(layer) if aware else None
    found, wanted = Cpd(layer, known), Svd(layer, known)
    assert found.full == wanted.full
    assert found.factors((2,)).method == "cpd"
    assert same(found.factors((2,)), wanted.factors((2,)))


def test_groups_are_decomposed_apart() -> None:
    tensor = normal(2, 8, 6, 3, 3)
    found = Cpd(form(tensor)).factors((5,)).tensor
    for group in range(2):
        own = Cpd(form(tensor[group : group + 1])).factors((5,)).tensor
        np.testing.assert_allclose(found[group], own[0], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_layers_compute_is_the_sum_of_terms_balanced(method: type[Cpd]) -> None:
    factors = method(form(smooth(12, 10, 3)[None])).factors((6,))
    modes = [stage.tensor.reshape(stage.tensor.shape[0], stage.tensor.shape[1], -1) for stage in factors.stages]
    last, first, kernels = modes[-1][0], modes[0][0], [mode[:, 0].reshape(6, -1) for mode in modes[1:-1]]
    kernel = kernels[0]
    for other in kernels[1:]:
        kernel = (kernel[:, :, None] * other[:, None]).reshape(6, -1)
    wanted = np.einsum("nr,rc,rk->nck", last, first, kernel).reshape(factors.tensor.shape[1:])
    np.testing.assert_allclose(factors.tensor[0], wanted, atol=1e-12)
    lengths = [np.linalg.norm(own, axis=1) for own in (last.T, first, *kernels)]
    for own in lengths[1:]:
        np.testing.assert_allclose(own, lengths[0])


def test_the_same_weights_and_rank_give_the_same_terms_whatever_was_asked_before() -> None:
    layer = form(smooth(12, 10, 3)[None])
    asked = Cpd(layer)
    asked.error((3,))
    assert same(asked.factors((8,)), Cpd(layer).factors((8,)))


def test_zeros_are_one_term_of_zeros() -> None:
    found = Cpd(form(np.zeros((1, 8, 6, 3, 3))))
    assert found.full == (1,)
    assert found.error((1,)) == 0.0
    assert not found.factors((1,)).tensor.any()
    half = Cpd(form(np.stack([np.zeros((8, 6, 3, 3)), normal(8, 6, 3, 3)])))
    assert not half.factors((4,)).tensor[0].any()
    assert half.error((4,)) < 1


@pytest.mark.parametrize("rank", [(0,), (-1,), (10_000,), (2, 2), ()])
def test_ranks_that_are_none_are_refused(rank: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rank"):
        Cpd(form(normal(1, 8, 6, 3, 3))).factors(rank)


def test_layers_that_only_grow_are_declined() -> None:
    with pytest.raises(Declined, match="at no rank"):
        Cpd(form(normal(8, 1, 1, 3, 3)))


def degenerate(noise: float = 0.0) -> np.ndarray:
    """``a o a o b + a o b o a + b o a o a``, of rank 3, to which sums of 2 terms come as close as one likes."""
    left, right = np.eye(6)[0], np.eye(6)[1]
    names = [(left, left, right), (left, right, left), (right, left, left)]
    tensor = sum(np.einsum("i,j,k->ijk", *own) for own in names)
    return np.asarray(tensor + noise * normal(6, 6, 6))


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_terms_that_cancel_are_bounded(noise: float) -> None:
    tensor = degenerate(noise)
    sweeps, norm = Sweeps(tensor), float(np.linalg.norm(tensor))
    start = Terms(tuple(normal(6, 2, seed=seed) for seed in range(3)))
    assert cancellation(alternate(sweeps, start, 1000, 0.0)[0], norm) > DEGENERATE  # left alone, they grow
    found = closest(tensor, 2, triples(tensor))
    assert cancellation(found, norm) <= DEGENERATE
    assert np.square(tensor - found.tensor).sum() < 1e-3 * norm**2
    assert Cpd(form(tensor[None])).error((2,)) == pytest.approx(sweeps.residual(found) / norm**2)


def test_a_layer_of_degenerate_terms_only_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpd, "DEGENERATE", 0.1)
    with pytest.raises(Declined, match=r"its 2 terms cancel each other: their norms sum up to \d.* more than 0.1"):
        Cpd(form(degenerate()[None])).factors((2,))


@pytest.mark.parametrize("method", METHODS)
def test_with_moments_it_is_never_worse_than_refined_without(method: type[Cpd]) -> None:
    layer = form(smooth(12, 10, 3)[None])
    known = moments(layer)
    for rank in (3, 10):
        plain = method(layer).factors((rank,)).refined(layer, known)
        aware = method(layer, known)
        assert aware.error((rank,)) <= relative_error(layer, plain, known) * (1 + 1e-6)
        assert aware.error((rank,)) == relative_error(layer, aware.factors((rank,)), known)


def test_metrics_of_a_kronecker_product_are_its_factors() -> None:
    left, right = (own @ own.T for own in (normal(4, 4), normal(3, 3, seed=1)))
    (_, channel, kernel) = metric_roots(np.kron(left, right), (5, 4, 3))
    for (root, inverse), wanted in ((channel, left), (kernel, right)):
        assert root is not None
        assert inverse is not None
        np.testing.assert_allclose(root @ root, wanted / np.trace(wanted) * len(wanted), atol=1e-3)
        np.testing.assert_allclose(root @ inverse, np.eye(len(wanted)), atol=1e-9)


def test_alternating_never_raises_the_error() -> None:
    sweeps = Sweeps(smooth(12, 10, 3).reshape(12, 10, 9))
    start = Terms(tuple(normal(size, 8, seed=size) for size in (12, 10, 9)))
    before = 1.0
    for most in range(1, 40, 3):
        terms, share = alternate(sweeps, start, most, 0.0)
        assert share <= before
        assert share == pytest.approx(sweeps.residual(terms) / sweeps.energy)
        before = share


def test_triples_are_the_tensor_largest_first() -> None:
    tensor = normal(4, 7, 3, 2)
    found = triples(tensor)
    np.testing.assert_allclose(found.tensor, tensor, atol=1e-12)
    assert (np.diff(found.norms) <= 1e-12).all()
    assert found.rank == 4 * 6
