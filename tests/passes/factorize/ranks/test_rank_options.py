"""Ranks to choose from: few, below break-even, in the target's multiples where there are such."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.ranks.options import candidates
from lpcc.passes.factorize.ranks.skeleton import Work, most, skeleton

METHODS = ["svd", "bmd", "tucker2", "cpd", "cpd-separable"]


def conv(outputs, inputs, kernel=(3, 3), groups=1, seed=0):
    tensor = np.random.default_rng(seed).standard_normal((groups, outputs, inputs, *kernel))
    return Form("Conv", tensor, (1, 1), (1, 1), (1, 1, 1, 1), (0, 0))


WORK = Work((14, 14), (14, 14), 1)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.sampled_from([(3, 3), (1, 1), (1, 5), (5, 5)]),
    st.sampled_from([1, 1, 2, 4]),
    st.sampled_from([1, 4, 8, 16, 6]),
)
def test_all_are_below_break_even(method, outputs, inputs, kernel, groups, multiple):
    form = conv(outputs, inputs, kernel, groups)
    found = candidates(form, method, WORK, multiple)
    assert len(found) <= 12
    assert len(set(found)) == len(found)
    for rank in found:
        assert all(1 <= own <= bound for own, bound in zip(rank, most(form, method), strict=True))
        assert WORK.stages(skeleton(form, method, rank).stages) < WORK.layer(form)


def test_multiples_spread_geometrically():
    found = [rank for (rank,) in candidates(conv(512, 512), "bmd", WORK, 8)]
    assert all(rank % 8 == 0 for rank in found)
    assert found[-1] in (680, 688, 696)  # nine tenths of break-even, 9 * 512 * 512 / (3 * (512 + 512)) = 768
    assert found[0] in (40, 48)
    assert 10 <= len(found) <= 12
    steps = np.diff(found)
    assert (np.diff(steps) >= 0).sum() >= len(steps) - 2


def test_groups_times_rank_is_the_multiple():
    found = [rank for (rank,) in candidates(conv(64, 64, groups=4), "svd", WORK, 16)]
    assert found[0] == 4
    assert all(4 * rank % 16 == 0 for rank in found)


@pytest.mark.parametrize(("channels", "wanted"), [(16, [4, 8, 16]), (8, [4, 8]), (4, [4]), (2, [])])
def test_small_layers_have_parts_of_a_multiple(channels, wanted):
    found = [rank for (rank,) in candidates(conv(channels, channels), "bmd", WORK, 16)]
    assert found == [rank for rank in wanted if rank < 1.5 * channels]


def test_few_for_what_is_costly():
    assert 3 <= len(candidates(conv(256, 256), "cpd", WORK, 8)) <= 5
    assert len(candidates(conv(256, 256, (1, 1)), "cpd", WORK, 8)) > 5  # an SVD


def test_pairs_trade_work_for_what_the_unfoldings_lose():
    found = candidates(conv(64, 64), "tucker2", WORK, 8)
    assert len(found) > 5
    costs = [WORK.stages(skeleton(conv(64, 64), "tucker2", rank).stages) for rank in found]
    assert costs == sorted(costs)
    assert len({rank[0] for rank in found}) > 1
    assert len({rank[1] for rank in found}) > 1


def test_nothing_for_a_depthwise_layer():
    assert candidates(conv(1, 1, groups=32), "svd", WORK, 8) == ()
