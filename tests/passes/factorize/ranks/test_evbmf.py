"""The rank that variational Bayes finds: that of the signal, and nothing in noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.ranks.evbmf import evbmf_rank, ranks_by_evbmf


def low_rank(rng, rows, columns, rank, noise):
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return signal + noise * rng.standard_normal((rows, columns))


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (100, 100), (64, 576), (576, 64), (30, 3000)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_finds_the_rank_below_noise(shape, rank):
    found = [evbmf_rank(low_rank(np.random.default_rng(seed), *shape, rank, 0.5)) for seed in range(5)]
    assert found == [rank] * 5


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (100, 100), (64, 576)])
def test_noise_has_no_rank(shape):
    found = [evbmf_rank(np.random.default_rng(seed).standard_normal(shape)) for seed in range(10)]
    assert sum(rank == 0 for rank in found) >= 9
    assert max(found) <= 1


def test_a_signal_far_below_the_noise_is_none():
    rng = np.random.default_rng(0)
    assert evbmf_rank(low_rank(rng, 60, 300, 4, 300.0)) == 0


def test_without_noise_what_is_there_is_kept():
    assert evbmf_rank(low_rank(np.random.default_rng(0), 30, 90, 7, 0.0)) == 7


@pytest.mark.parametrize("matrix", [np.zeros((4, 9)), np.zeros((1, 1)), np.zeros((9, 4))])
def test_zeros_have_no_rank(matrix):
    assert evbmf_rank(matrix) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.1, 10.0]),
    st.floats(1e-6, 1e6),
)
def test_neither_transposition_nor_scale_matter(seed, rows, columns, rank, noise, scale):
    matrix = low_rank(np.random.default_rng(seed), rows, columns, rank, noise)
    found = evbmf_rank(matrix)
    assert 0 <= found <= min(matrix.shape)
    assert evbmf_rank(matrix.T) == found
    assert evbmf_rank(matrix * 2.0 ** np.round(np.log2(scale))) == found


def tucker(rng, groups, outputs, inputs, ranks, noise):
    core = rng.standard_normal((groups, ranks[1], ranks[0], 3, 3))
    left, right = rng.standard_normal((groups, outputs, ranks[1])), rng.standard_normal((groups, inputs, ranks[0]))
    signal = np.einsum("gnb,gbahw,gca->gnchw", left, core, right)
    return Form("Conv", signal + noise * rng.standard_normal(signal.shape), (1, 1), (1, 1), (1, 1, 1, 1), (0, 0))


@pytest.mark.parametrize("groups", [1, 3])
def test_ranks_of_a_layer_by_each_method(groups):
    form = tucker(np.random.default_rng(1), groups, 40, 32, (4, 6), 0.3)
    assert ranks_by_evbmf(form, "tucker2") == (4, 6)
    assert ranks_by_evbmf(form, "cpd") == (6,)
    assert ranks_by_evbmf(form, "svd") == (6,)
    (spatial,) = ranks_by_evbmf(form, "bmd")
    assert 6 <= spatial <= 12  # three rows of a kernel of four inputs


def test_noise_is_declined():
    rng = np.random.default_rng(0)
    with pytest.raises(Declined, match="noise"):
        ranks_by_evbmf(Form("Gemm", rng.standard_normal((1, 50, 400))), "svd")
