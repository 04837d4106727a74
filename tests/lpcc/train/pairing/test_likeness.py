"""Likeness of layers, against its definition in NumPy, and how two networks line up."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.pairing.likeness import Likeness, aligned  # noqa: E402

Array = np.ndarray[Any, Any]


def layer(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def alike(one: Array, other: Array) -> float:
    return Likeness()(torch.tensor(one), torch.tensor(other))


def test_is_linear_cka() -> None:
    x, y = layer(20, 4), layer(20, 7, seed=1) + layer(20, 1) * 2
    x, y = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert alike(x + 5, y) == pytest.approx(expected, rel=1e-4)


def test_is_one_for_rotations_and_small_for_strangers() -> None:
    x = layer(300, 6)
    rotation = np.linalg.qr(layer(6, 6, seed=1))[0]
    assert alike(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert alike(x, layer(300, 6, seed=2)) < 0.1


def test_takes_positions_for_samples() -> None:
    x, y = layer(5, 4, 3, 3), layer(5, 7, 3, 3, seed=1)
    rows = [a.transpose(0, 2, 3, 1).reshape(45, -1) for a in (x, y)]
    assert alike(x, y) == pytest.approx(alike(*rows), rel=1e-5)


def test_compares_at_the_coarser_of_both() -> None:
    x, y = layer(5, 4, 2, 2), layer(5, 7, 4, 4, seed=1)
    assert alike(x, y) == pytest.approx(alike(x, y.reshape(5, 7, 2, 2, 2, 2).mean((3, 5))), rel=1e-5)
    assert alike(x.mean((2, 3)), y) == pytest.approx(alike(x.mean((2, 3)), y.mean((2, 3))), rel=1e-5)


def test_of_what_never_changes_is_nothing() -> None:
    assert alike(np.ones((5, 4)), layer(5, 4)) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=4, max_size=4), min_size=3, max_size=3))
def test_lines_up_with_the_highest_gain(gains: list[list[int]]) -> None:
    found = aligned(range(3), range(4), lambda i, j: float(gains[i][j]))
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(found))
    cells = [(i, j) for i in range(3) for j in range(4)]
    best = max(
        sum(gains[i][j] for i, j in chosen)
        for count in range(4)
        for chosen in combinations(cells, count)
        if all(a < c and b < d for (a, b), (c, d) in combinations(chosen, 2))
    )
    assert sum(gains[i][j] for i, j in found) == best
