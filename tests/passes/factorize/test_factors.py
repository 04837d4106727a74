from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.factors import Factors, Stage, energy, relative_error
from lpcc.passes.factorize.form import Form


def stage(rng: np.random.Generator, axes: tuple[int, ...], *shape: int) -> Stage:
    return Stage(rng.standard_normal(shape), axes)


def four(groups: int, outputs: int, rank: int, inputs: int, kernel: tuple[int, int], seed: int = 0) -> Factors:
    """One pixel, a depthwise column, a depthwise row, one pixel."""
    rng = np.random.default_rng(seed)
    height, width = kernel
    return Factors("cpd", (rank,), (
        stage(rng, (), groups, rank, inputs, 1, 1),
        stage(rng, (0,), groups * rank, 1, 1, height, 1),
        stage(rng, (1,), groups * rank, 1, 1, 1, width),
        stage(rng, (), groups, outputs, rank, 1, 1),
    ))  # fmt: skip


def three(groups: int, outputs: int, rank: tuple[int, int], inputs: int, kernel: tuple[int, int]) -> Factors:
    rng = np.random.default_rng(0)
    return Factors("tucker2", rank, (
        stage(rng, (), groups, rank[0], inputs, 1, 1),
        stage(rng, (0, 1), groups, rank[1], rank[0], *kernel),
        stage(rng, (), groups, outputs, rank[1], 1, 1),
    ))  # fmt: skip


def two(groups: int, outputs: int, rank: int, inputs: int, kernel: tuple[int, int]) -> Factors:
    rng = np.random.default_rng(0)
    return Factors("bmd", (rank,), (
        stage(rng, (0,), groups, rank, inputs, kernel[0], 1),
        stage(rng, (1,), groups, outputs, rank, 1, kernel[1]),
    ))  # fmt: skip


def test_the_product_of_four_layers():
    found = four(2, 5, 3, 4, (3, 2))
    u, a, b, v = (stage.tensor.squeeze() for stage in found.stages)
    wanted = np.einsum("grc,gry,grx,gnr->gncyx", u, a.reshape(2, 3, 3), b.reshape(2, 3, 2), v)
    np.testing.assert_allclose(found.tensor, wanted)
    assert found.parameters == 2 * (3 * 4 + 3 * 3 + 3 * 2 + 5 * 3)


def test_the_product_of_three_layers():
    found = three(2, 5, (3, 2), 4, (3, 2))
    u, core, v = (stage.tensor for stage in found.stages)
    wanted = np.einsum("gac,gbayx,gnb->gncyx", u[..., 0, 0], core, v[..., 0, 0])
    np.testing.assert_allclose(found.tensor, wanted)


def test_a_depthwise_layer_at_either_end():
    rng = np.random.default_rng(0)
    depthwise, dense = stage(rng, (0,), 6, 1, 1, 3), stage(rng, (), 2, 4, 3, 1)
    found = Factors("other", (3,), (depthwise, dense))
    wanted = np.einsum("gct,gnc->gnct", depthwise.tensor.reshape(2, 3, 3), dense.tensor[..., 0])
    np.testing.assert_allclose(found.tensor, wanted)
    dense, depthwise = stage(rng, (), 2, 4, 3, 1), stage(rng, (0,), 8, 1, 1, 3)
    found = Factors("other", (4,), (dense, depthwise))
    wanted = np.einsum("gnt,gnc->gnct", depthwise.tensor.reshape(2, 4, 3), dense.tensor[..., 0])
    np.testing.assert_allclose(found.tensor, wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_the_basis_times_the_last_layer_is_the_matrix(groups, outputs, rank, inputs, height, width):
    kernel = (height, width)
    for found in (
        four(groups, outputs, rank, inputs, kernel),
        three(groups, outputs, (rank, inputs), inputs, kernel),
        two(groups, outputs, rank, inputs, kernel),
    ):
        assert found.tensor.shape == (groups, outputs, inputs, height, width)
        np.testing.assert_allclose(found.basis @ found.last, Form("Conv", found.tensor).matrix, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: two(2, 5, 2, 4, (3, 2)), lambda: three(2, 5, (2, 2), 4, (3, 2))])
def test_refined_is_the_least_squares_solution_on_the_rows(make, rows):
    found = make()
    form = Form("Conv", np.random.default_rng(1).standard_normal(found.tensor.shape))
    x = rows(2, 24, 200)
    moments = x.transpose(0, 2, 1) @ x / 200
    refined = found.refined(form, moments)
    for group in range(2):
        read = x[group] @ found.basis[group]
        best = np.linalg.lstsq(read, x[group] @ form.matrix[group], rcond=None)[0]
        lost = np.square(x[group] @ form.matrix[group] - read @ best).sum()
        mine = np.square(x[group] @ form.matrix[group] - read @ refined.last[group]).sum()
        assert mine == pytest.approx(lost, rel=1e-4)
    assert relative_error(form, refined, moments) < relative_error(form, found, moments)
    assert [one is two for one, two in zip(refined.stages, found.stages, strict=True)][:-1].count(False) == 0
    assert refined.stages[-1].tensor.shape == found.stages[-1].tensor.shape


def test_where_nothing_is_read_weights_stay():
    found = two(1, 5, 2, 4, (3, 2))
    form = Form("Conv", np.random.default_rng(1).standard_normal(found.tensor.shape))
    np.testing.assert_allclose(found.refined(form, np.zeros((1, 24, 24))).last, found.last)


def test_errors_are_those_of_the_rows(rows):
    found = two(2, 5, 2, 4, (3, 2))
    form = Form("Conv", np.random.default_rng(1).standard_normal(found.tensor.shape))
    x = rows(2, 24, 50)
    moments = x.transpose(0, 2, 1) @ x / 50
    made, instead = x @ form.matrix, x @ (found.basis @ found.last)
    wanted = np.square(made - instead).sum() / np.square(made).sum()
    assert relative_error(form, found, moments) == pytest.approx(wanted)
    assert energy(form.matrix, moments) == pytest.approx(np.square(made).sum() / 50)
    assert relative_error(form, found, None) == pytest.approx(
        np.square(form.tensor - found.tensor).sum() / np.square(form.tensor).sum()
    )
    same = Form("Conv", found.tensor)
    assert relative_error(same, found, moments) < 1e-20
    nothing = Form("Conv", np.zeros_like(found.tensor))
    assert np.isfinite(relative_error(same, found, np.zeros((2, 24, 24))))
    assert energy(nothing.matrix, None) == 0.0
