from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.factors import relative_error
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.svd import Svd
from lpcc.passes.factorize.methods.tucker2 import Tucker2


def form(*shape: int, seed: int = 0) -> Form:
    return Form("Conv", np.random.default_rng(seed).standard_normal(shape))


def moments(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 1) @ x / x.shape[1]


def reference(own: Form, rank: tuple[int, int]) -> float:
    """Error of tensorly's own."""
    import tensorly
    from tensorly.decomposition import partial_tucker

    (core, sides), _ = partial_tucker(own.tensor[0], [rank[1], rank[0]], modes=[0, 1])
    lost = own.tensor[0] - tensorly.tenalg.multi_mode_dot(core, sides, modes=[0, 1])
    return float(np.square(lost).sum() / np.square(own.tensor).sum())


@pytest.mark.filterwarnings("ignore:Trying to compute SVD:UserWarning")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(2, 9), st.integers(2, 9), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_never_worse_than_tensorly(outputs, inputs, kernel, data):
    own = form(1, outputs, inputs, *kernel, seed=data.draw(st.integers(0, 99)))
    if own.is_pointwise:
        return
    if data.draw(st.booleans()):  # weights as they are in networks: most energy in few directions
        own.tensor[:] *= np.geomspace(1, 0.01, outputs).reshape(-1, *[1] * (own.tensor.ndim - 2))
    try:
        found = Tucker2(own)
    except Declined:
        return
    rank = tuple(data.draw(st.integers(1, most)) for most in found.full)
    assert found.error(rank) <= reference(own, rank) + 1e-9


def test_a_tensor_of_low_ranks_is_found_again():
    rng = np.random.default_rng(0)
    tensor = np.einsum("nb,bahw,ca->nchw", *(rng.standard_normal(s) for s in ((9, 3), (3, 2, 3, 3), (8, 2))))
    found = Tucker2(Form("Conv", tensor[None]))
    assert found.error((2, 3)) < 1e-12
    assert found.error((1, 3)) > 1e-3
    assert found.error((2, 2)) > 1e-3


def test_iteration_is_better_than_its_start():
    """The truncated HOSVD, which the iteration starts from, on a tensor where they differ."""
    own = form(1, 8, 8, 3, 3, seed=3)
    tensor = own.tensor[0]
    sides = [np.linalg.svd(np.moveaxis(tensor, mode, 0).reshape(8, -1))[0][:, :3] for mode in (0, 1)]
    n, c = (side @ side.T for side in sides)
    start = np.square(tensor - np.einsum("nm,cd,mdhw->nchw", n, c, tensor)).sum() / np.square(tensor).sum()
    assert Tucker2(own).error((3, 3)) < start - 1e-3


def test_the_layers(rows):
    for x in (None, moments(rows(2, 4 * 6, 60))):
        factors = Tucker2(form(2, 5, 4, 2, 3), x).factors((3, 2))
        assert [stage.tensor.shape for stage in factors.stages] == [(2, 3, 4, 1, 1), (2, 2, 3, 2, 3), (2, 5, 2, 1, 1)]
        assert [stage.axes for stage in factors.stages] == [(), (0, 1), ()]
        assert (factors.rank, factors.method) == ((3, 2), "tucker2")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6), st.integers(2, 4), st.data())
def test_full_rank_basis_and_data(groups, outputs, inputs, taps, data):
    own = form(groups, outputs, inputs, taps, seed=data.draw(st.integers(0, 99)))
    depth = inputs * taps
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = moments(rng.standard_normal((groups, 2 * depth, depth)) @ rng.standard_normal((groups, depth, depth)))
    try:
        found, aware = Tucker2(own), Tucker2(own, x)
    except Declined:
        return
    for method in (found, aware):
        np.testing.assert_allclose(method.factors(method.full).tensor, own.tensor, atol=1e-5)
    rank = tuple(data.draw(st.integers(1, most)) for most in found.full)
    plain, factors = found.factors(rank), aware.factors(rank)
    assert aware.error(rank) == pytest.approx(relative_error(own, factors, x), abs=1e-12)
    assert aware.error(rank) <= relative_error(own, plain, x) + 1e-6
    assert aware.error(rank) <= relative_error(own, plain.refined(own, x), x) + 1e-6
    for own_factors in (factors, plain):
        made = own.with_matrix(own_factors.basis @ own_factors.last)
        np.testing.assert_allclose(made.tensor, own_factors.tensor, atol=1e-9)


def test_with_data_what_stands_behind_the_first_layer_is_the_optimum(rows):
    """Reduced-rank regression of the output on what the first layer lets through, on the rows themselves."""
    own = form(1, 9, 6, 3)
    x = rows(1, 18, 200)
    factors = Tucker2(own, moments(x)).factors((3, 4))
    first = factors.stages[0].tensor[0, :, :, 0]
    through = np.einsum("rct,kc->rkt", x[0].reshape(200, 6, 3), first).reshape(200, -1)
    made = x[0] @ own.matrix[0]
    fitted = through @ np.linalg.lstsq(through, made, rcond=None)[0]
    left = np.square(made - fitted).sum() + np.square(np.linalg.svd(fitted, compute_uv=False)[4:]).sum()
    assert relative_error(own, factors, moments(x)) == pytest.approx(left / np.square(made).sum(), rel=1e-3)


def test_data_finds_what_refinement_alone_does_not():
    rng = np.random.default_rng(0)
    own = form(1, 12, 12, 3, 3)
    mixed = rng.standard_normal((12, 12)) * np.geomspace(1, 0.02, 12)
    x = np.kron(mixed @ mixed.T, np.eye(9))[None]
    plain = Tucker2(own).factors((4, 6))
    after = relative_error(own, plain.refined(own, x), x)
    assert Tucker2(own, x).error((4, 6)) < 0.7 * after
    assert Tucker2(own, x).error((4, 6)) == pytest.approx(0.17866, rel=1e-3)  # 0.2257 behind the first layer of `plain`


def test_one_pixel_is_the_svd(rows):
    own = form(2, 6, 5, 1, 1)
    for x in (None, moments(rows(2, 5, 40))):
        found = Tucker2(own, x)
        assert found.full == (5,)
        np.testing.assert_array_equal(found.factors((2,)).tensor, Svd(own, x).factors((2,)).tensor)
        assert found.error((2,)) == Svd(own, x).error((2,))
        assert found.factors((2,)).method == "tucker2"


def test_where_one_rank_leaves_the_other_free_it_is_the_optimum():
    """A case in which the iteration from the truncated HOSVD stops short."""
    own = form(1, 5, 5, 2, seed=18)
    values = np.linalg.svd(own.tensor.reshape(5, -1), compute_uv=False)
    assert Tucker2(own).error((3, 1)) == pytest.approx(np.square(values[1:]).sum() / np.square(values).sum(), rel=1e-9)


def test_a_rank_beyond_what_the_other_allows_is_lowered():
    own = form(1, 4, 20, 2)
    found = Tucker2(own)
    assert found.full == (8, 4)
    factors = found.factors((8, 2))
    assert factors.rank == (4, 2)
    values = np.linalg.svd(own.tensor.reshape(4, -1), compute_uv=False)
    assert found.error((8, 2)) == pytest.approx(np.square(values[2:]).sum() / np.square(values).sum())


@pytest.mark.parametrize("shape", [(8, 1, 1, 3, 3), (1, 1, 1, 5, 5), (1, 2, 2, 1, 1)])
def test_what_gains_nothing_is_declined(shape):
    with pytest.raises(Declined, match="at no rank has"):
        Tucker2(form(*shape))


@pytest.mark.parametrize("rank", [(), (1,), (0, 1), (1, 0), (4, 1), (1, 5), (1, 1, 1)])
def test_ranks_that_are_none(rank):
    found = Tucker2(form(1, 4, 3, 3, 3))
    assert found.full == (3, 4)
    with pytest.raises(ValueError, match="rank"):
        found.factors(rank)
    with pytest.raises(ValueError, match="rank"):
        found.error(rank)


def test_zero_weights():
    found = Tucker2(Form("Conv", np.zeros((1, 4, 3, 3, 3))))
    assert found.error((1, 1)) == 0.0
    assert not found.factors((2, 2)).tensor.any()
