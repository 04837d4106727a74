from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.targets.fit.adapt import Adaptation, adapt, leave_one_out

TRUTH = Adaptation(1.7, {"depthwise": 1.6, "elements": 0.6, "int8": 0.8}, 0.05)


def networks(count: int, seed: int = 0) -> Iterator[dict[str, float]]:
    """Predicted times by group, half of the networks in int8."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        total = float(np.exp(rng.uniform(0, 4)))
        word = " int8" if index % 2 else ""
        shares = rng.dirichlet([4, 1, 1])
        yield {f"{group}{word}": total * s for group, s in zip(("dense", "depthwise", "elements"), shares, strict=True)}


def test_many_networks_give_every_factor() -> None:
    predicted = list(networks(80))
    found = adapt(predicted, [TRUTH.predict_ms(groups) for groups in predicted])
    assert found.scale == pytest.approx(TRUTH.scale, rel=0.05)
    assert dict(found.factors) == pytest.approx(dict(TRUTH.factors), rel=0.15)
    for groups in networks(20, seed=3):
        assert found.predict_ms(groups) == pytest.approx(TRUTH.predict_ms(groups), rel=0.02)


def test_few_networks_give_the_scale_and_little_else() -> None:
    predicted = [{"dense": 1.0 + index, "elements": 0.1} for index in range(5)]
    found = adapt(predicted, [2 * sum(groups.values()) for groups in predicted])
    assert found.scale == pytest.approx(2, rel=0.01)
    assert all(0.95 < factor < 1.05 for factor in found.factors.values())
    assert found.constant_ms < 0.01


def test_five_networks_predict_others_better_than_none_do() -> None:
    known, others = list(networks(5)), list(networks(30, seed=1))
    found = adapt(known, [TRUTH.predict_ms(groups) for groups in known])
    after = [abs(found.predict_ms(groups) / TRUTH.predict_ms(groups) - 1) for groups in others]
    before = [abs(sum(groups.values()) / TRUTH.predict_ms(groups) - 1) for groups in others]
    assert np.mean(after) < 0.12 < np.mean(before)


def test_one_wrong_measurement_does_little() -> None:
    predicted = list(networks(12))
    measured = [TRUTH.predict_ms(groups) for groups in predicted]
    measured[3] *= 4
    found = adapt(predicted, measured)
    errors = [abs(found.predict_ms(g) / TRUTH.predict_ms(g) - 1) for g in networks(30, seed=2)]
    assert np.mean(errors) < 0.15


def test_leaves_each_network_out() -> None:
    predicted = [{"dense": float(size)} for size in (1, 2, 3, 4, 5, 6)]
    measured = [3.0 * size for size in (1, 2, 3, 4, 5, 6)]
    measured[-1] *= 2
    *others, last = leave_one_out(predicted, measured)
    assert last == pytest.approx(-0.5, abs=0.02)
    assert max(map(abs, others)) < 0.15


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=10, deadline=None)
def test_units_do_not_matter(seed: int, unit: float) -> None:
    predicted = list(networks(8, seed))
    measured = [TRUTH.predict_ms(groups) for groups in predicted]
    plain = adapt(predicted, measured)
    scaled = adapt(predicted, [unit * value for value in measured])
    for groups in predicted:
        assert scaled.predict_ms(groups) == pytest.approx(unit * plain.predict_ms(groups), rel=0.02)
