from __future__ import annotations

import math
from itertools import pairwise

import pytest

from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.schedule import Schedule  # noqa: E402


def test_warm_up_in_a_line_then_half_a_cosine_to_zero() -> None:
    schedule = Schedule.of(Recipe(epochs=10, warmup=1), steps=10, peak=0.8)
    rates = [schedule(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.8 * (step + 1) / 11 for step in range(10)])
    assert rates[10] == max(rates) == 0.8
    assert rates[55] == pytest.approx(0.4)
    assert rates[99] == pytest.approx(0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert 0 < rates[99] < 0.001
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_constant_after_the_warm_up() -> None:
    schedule = Schedule.of(Recipe(epochs=4, warmup=0.5, schedule="constant"), steps=6, peak=1)
    assert schedule(0) == 0.25
    assert {schedule(step) for step in range(3, 24)} == {1.0}


def test_the_warm_up_of_a_short_training_is_a_third_at_most() -> None:
    schedule = Schedule.of(Recipe(epochs=1, warmup=100), steps=9, peak=1)
    assert schedule.warmup == 3
    one = Schedule.of(Recipe(epochs=1, warmup=100), steps=1, peak=0.5)
    assert one(0) == 0.5
