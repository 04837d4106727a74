"""Ranks by energy and by ratio: the least that keeps enough, the most that costs little enough."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.factorize.ranks.analytic import rank_by_energy, rank_by_ratio, rising, tail
from lpcc.passes.factorize.ranks.skeleton import Work, most, skeleton


def conv(outputs, inputs, kernel=(3, 3), seed=0, decay=0.8):
    """A convolution whose unfoldings have falling spectra."""
    rng = np.random.default_rng(seed)
    tensor = rng.standard_normal((1, outputs, inputs, *kernel))
    tensor *= (decay ** np.arange(outputs))[:, None, None, None] * (decay ** np.arange(inputs))[:, None, None]
    ones = (1, 1)
    return Form("Conv", tensor, ones, ones, (1, 1, 1, 1), (0, 0))


channels = st.sampled_from([3, 8, 16, 40])
WORK = Work((14, 14), (14, 14), 1)


@pytest.mark.parametrize("method", ["svd", "bmd"])
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_the_least_rank_that_keeps_the_energy(method, energy):
    found = METHODS[method](conv(12, 10))
    (rank,) = rank_by_energy(found, energy)
    errors = [found.error((each,)) for each in range(1, found.full[0] + 1)]
    assert (rank,) == found.full or errors[rank - 1] <= 1 - energy
    assert rank == 1 or errors[rank - 2] > 1 - energy


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_tucker_cuts_both_sides(energy):
    found = METHODS["tucker2"](conv(12, 10))
    rank = rank_by_energy(found, energy)
    assert found.error(rank) <= 1 - energy
    ranks = rising(found)
    assert all(a <= b for low, high in pairwise(ranks) for a, b in zip(low, high, strict=True))
    assert ranks[-1] == found.full
    place = ranks.index(rank)
    assert place == 0 or found.error(ranks[place - 1]) > 1 - energy


def test_what_is_lost_by_half_in_each_unfolding_bounds_tucker():
    found = METHODS["tucker2"](conv(12, 10))
    form = found.form
    sides = (form.tensor.swapaxes(1, 2).reshape(1, 10, -1), form.tensor.reshape(1, 12, -1))
    for rank in [(2, 3), (5, 5), (9, 4)]:
        lost = sum(tail(side)[own - 1] for side, own in zip(sides, rank, strict=True))
        assert found.error(rank) <= lost + 1e-12


def test_a_method_that_fails_everywhere_is_declined():
    def error(rank):
        raise Declined("no")

    failing = SimpleNamespace(full=(5,), name="cpd", error=error)
    with pytest.raises(Declined, match=r"no rank of cpd keeps 0\.9 of its energy"):
        rank_by_energy(failing, 0.9)


def test_ranks_at_which_it_fails_are_passed_over():
    def error(rank):
        if rank[0] < 4:
            raise Declined("degenerate")
        return 0.0

    assert rank_by_energy(SimpleNamespace(full=(9,), name="cpd", error=error), 0.9) == (4,)


@pytest.mark.parametrize("method", ["svd", "bmd", "cpd", "tucker2"])
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([3, 8, 16, 40]), st.sampled_from([3, 8, 16, 40]), st.floats(0.05, 1.5), st.sampled_from([1, 4, 8])
)
def test_the_largest_rank_within_the_ratio(method, outputs, inputs, ratio, multiple):
    form = conv(outputs, inputs)
    limit = ratio * WORK.layer(form)

    def cost(rank):
        return WORK.stages(skeleton(form, method, rank).stages)

    full = most(form, method)
    try:
        rank = rank_by_ratio(form, method, WORK, ratio, multiple)
    except Declined:
        assert cost((1,) * len(full)) > limit
        return
    assert cost(rank) <= limit
    assert all(1 <= own <= bound for own, bound in zip(rank, full, strict=True))
    if multiple == 1 and len(rank) == 1 and rank != full:
        assert cost((rank[0] + 1,)) > limit
    if multiple > 1 and min(rank) >= multiple:
        assert not any(own % multiple for own in rank)


@pytest.mark.parametrize("shape", [(1, 5, 20), (1, 20, 5), (3, 6, 6)])
def test_tails_are_those_of_the_svd(shape):
    matrices = np.random.default_rng(0).standard_normal(shape)
    squares = np.square(np.linalg.svd(matrices, compute_uv=False)).sum(axis=0)
    wanted = [squares[rank:].sum() / squares.sum() for rank in range(1, len(squares) + 1)]
    np.testing.assert_allclose(tail(matrices), wanted, atol=1e-12)


def test_nothing_is_lost_of_zeros():
    assert not tail(np.zeros((1, 3, 4))).any()
