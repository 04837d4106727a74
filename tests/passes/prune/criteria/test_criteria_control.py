from __future__ import annotations

import numpy as np

from lpcc.passes.prune.criteria.control import Random
from lpcc.pipeline import Context


def test_the_same_seed_gives_the_same_scores_and_another_others(subject):
    body = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"
    net = subject(body, w=np.ones((400, 2, 1, 1)), v=np.ones((2, 400, 1, 1)))
    first, again, other = (net.scores(Random(), Context(seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.isclose(first, other).all()
    assert first.shape == (net.found.count,)
    assert (first >= 0).all()
    assert (first < 1).all()
    assert abs(first.mean() - 0.5) < 0.1
    assert Random.comparable
    assert not Random.needs


def test_on_a_real_network_both_ends_hurt_alike(resnet20):
    low, high = resnet20.ends(resnet20.scores(Random()))
    assert low > 0.6 * high
    assert high > 0.6 * low
