"""Particles: the same for the same seed, bounded, and they find what is not needed."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.passes.prune.criteria import particles
from lpcc.passes.prune.criteria.control import Random
from lpcc.passes.prune.criteria.gradients import Work
from lpcc.passes.prune.criteria.particles import Particles
from lpcc.pipeline import Context

BODY = """(float[N,2,4,4] x) => (float[N,4] y)
    { a = Conv(x, w) r = Relu(a) b = Conv(r, u) q = Relu(b) p = GlobalAveragePool(q) f = Flatten(p) y = Gemm(f, v) }"""


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def planted(subject, rng):
    """A network in which channels 2 of `r` and 5 and 6 of `q` say nothing."""
    u, v = normal(rng, 12, 8, 1, 1), normal(rng, 12, 4)
    u[:, 2] = 0
    v[[5, 6]] = 0
    return subject(BODY, w=normal(rng, 8, 2, 1, 1), u=u, v=v)


def images(rng, count=32, seed=0):
    return Context(calibration=Dataset.from_arrays({"x": normal(rng, count, 2, 4, 4)}), seed=seed)


def test_useless_channels_are_found(subject, rng):
    net = planted(subject, rng)
    scores = net.scores(Particles(), images(rng))
    useless = {net.found.labels["r"][1][2], *net.found.labels["q"][1][[5, 6]]}
    assert useless < set(
        np.argsort(scores)[:4].tolist()
    )  # one more is open in no image; NaN, of what is pinned, is last
    assert np.array_equal(np.isnan(scores), ~net.found.free)
    assert (scores[net.found.free] > 0).all()


def test_scores_depend_on_the_seed_alone(subject, rng, monkeypatch):
    monkeypatch.setattr(particles, "_ROUNDS", (4, 5))
    net = planted(subject, rng)
    ctx = images(rng)
    first = net.scores(Particles(), ctx)
    np.testing.assert_array_equal(net.scores(Particles(), ctx), first)
    ctx.seed = 1
    assert not np.array_equal(net.scores(Particles(), ctx), first, equal_nan=True)


def test_the_work_is_bounded(subject, rng, monkeypatch):
    net = planted(subject, rng)
    ctx, seen = images(rng), []
    ctx.progress = lambda what, done, total: seen.append((what, done, total))
    each = Work.of(net.graph, ctx.calibration).each
    monkeypatch.setattr(particles, "WORK", each * 64 * 4 * 7)
    net.scores(Particles(), ctx)
    assert seen[-1] == ("score channels by particles", 7, 7)
    rows = []
    run = particles.GatedSession.run
    monkeypatch.setattr(particles.GatedSession, "run", lambda *given: rows.append(len(given[1]["x"])) or run(*given))
    monkeypatch.setattr(particles, "WORK", each * 64 * 4)
    net.scores(Particles(), ctx)
    assert seen[-1][1] == 4
    assert rows == [1] * 4 * 65


def test_fewer_images_than_a_round_takes(subject, rng, monkeypatch):
    monkeypatch.setattr(particles, "_ROUNDS", (4, 5))
    net = planted(subject, rng)
    assert np.isfinite(net.scores(Particles(), images(rng, 3))[net.found.free]).all()


def test_particles_whose_outputs_are_not_finite_have_no_weight():
    weights = particles._weights(np.asarray([0.5, np.nan, 1.5, np.inf]))
    np.testing.assert_allclose(weights, np.asarray([1, 0, np.exp(-2), 0]) / (1 + np.exp(-2)))
    np.testing.assert_array_equal(particles._weights(np.full(4, np.nan)), np.full(4, 0.25))
    np.testing.assert_array_equal(particles._weights(np.full(2, 3.0)), [0.5, 0.5])


def test_resampling_is_by_weight():
    drawn = particles._resampled(np.asarray([0.5, 0.0, 0.25, 0.25]), np.random.default_rng(0))
    assert np.bincount(drawn, minlength=4).tolist() == [2, 0, 1, 1]


def test_masks_keep_their_size():
    rng = np.random.default_rng(0)
    mask = particles._swapped(np.ones(40, dtype=bool), 5, 0, rng)
    assert (~mask).sum() == 5
    moved = particles._swapped(mask, 2, 2, rng)
    assert (~moved).sum() == 5
    assert (moved != mask).sum() == 4


def test_no_images(subject, rng):
    with pytest.raises(UsageError, match="criterion `particles` needs images"):
        planted(subject, rng).scores(Particles())


def test_a_network_without_channels_that_can_go(subject, rng):
    net = subject("(float[N,3] x) => (float[N,2] y) { y = Gemm(x, w) }", w=normal(rng, 3, 2))
    ctx = Context(calibration=Dataset.from_arrays({"x": normal(rng, 4, 3)}))
    assert np.isnan(net.scores(Particles(), ctx)).all()


@pytest.mark.slow
def test_a_real_network_loses_less_than_by_chance(resnet20):
    scores, chance = resnet20.scores(Particles(), resnet20.context()), resnet20.scores(Random())
    free = np.flatnonzero(resnet20.found.free)
    low, high = (resnet20.noise(free[np.argsort(by[free])[: len(free) // 20]]) for by in (scores, chance))
    assert low < high / 2
