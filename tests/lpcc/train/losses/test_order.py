"""The order of activations, against its equation in NumPy, and what it must not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.losses.base import Setting, Term  # noqa: E402
from lpcc.train.losses.order import Order  # noqa: E402
from lpcc.train.pairing import Pair, Pairing  # noqa: E402

Array = np.ndarray[Any, Any]


def activations(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def between(student: Array, teacher: Array, margin: float = 0.5) -> float:
    return Order(margin).between(torch.tensor(student), torch.tensor(teacher)).item()


def by_definition(student: Array, teacher: Array, margin: float) -> float:
    """The equation, comparison by comparison."""
    short = []
    for s, t in zip(student, teacher, strict=True):
        s, t = (s - s.mean()) / s.std(), (t - t.mean()) / t.std()
        ranks = sorted(range(len(t)), key=lambda neuron: -t[neuron])
        for k in (1, 2, 4, 8, 16, 32):
            for i in range(len(t) - k):
                a, b = ranks[i], ranks[i + k]
                short.append(max(0.0, min(margin, t[a] - t[b]) - (s[a] - s[b])) ** 2)
    return float(np.mean(short))


@pytest.mark.parametrize("neurons", [2, 3, 8, 13])
@pytest.mark.parametrize("margin", [0.1, 0.5, 3.0])
def test_is_its_equation(neurons: int, margin: float) -> None:
    student, teacher = activations(6, neurons), activations(6, neurons, seed=1)
    expected = by_definition(student, teacher, margin)
    assert between(student, teacher, margin) == pytest.approx(expected, rel=1e-9)


def test_is_zero_for_equals_also_where_neurons_are_equally_active() -> None:
    teacher = np.maximum(activations(6, 9), 0)
    assert between(teacher, teacher) == 0


def test_sees_neither_scale_nor_offset() -> None:
    student, teacher = activations(6, 9), activations(6, 9, seed=1)
    assert between(7 * student - 3, teacher) == pytest.approx(between(student, teacher), rel=1e-6)
    assert between(student, 7 * teacher - 3) == pytest.approx(between(student, teacher), rel=1e-6)


def test_sees_no_distance_beyond_the_margin() -> None:
    teacher = np.arange(8.0)[None]
    stretched = np.sinh(teacher / 4)  # the same order, other distances
    assert between(stretched, teacher, margin=0.1) == 0
    assert between(stretched, teacher, margin=1.0) > 0


def test_sees_no_order_of_neurons_on_both_sides() -> None:
    student, teacher = activations(6, 9), activations(6, 9, seed=1)
    mixed = np.random.default_rng(2).permutation(9)
    assert between(student[:, mixed], teacher[:, mixed]) == pytest.approx(between(student, teacher), rel=1e-9)
    assert between(student[:, mixed], teacher) != pytest.approx(between(student, teacher), rel=1e-3)


def test_grows_with_disorder() -> None:
    teacher = np.arange(16.0)[None]
    swapped = teacher.copy()
    swapped[0, [3, 4]] = swapped[0, [4, 3]]
    reversed_order = teacher[:, ::-1].copy()
    random = activations(1, 16)
    found = [between(one, teacher, margin=0.1) for one in (teacher, swapped, random, reversed_order)]
    assert found[0] == 0
    assert 0 < found[1] < 0.01
    assert min(found[2:]) > 0.5


def test_is_between_one_and_two_where_nothing_is_known() -> None:
    assert 1 < between(activations(200, 40), activations(200, 40, seed=1)) < 2


def test_learns_the_order_alone() -> None:
    teacher = torch.tensor(activations(6, 9))
    student = torch.tensor(activations(6, 9, seed=1), requires_grad=True)
    optimiser = torch.optim.Adam([student], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        Order(margin=0.2).between(student, teacher).backward()
        optimiser.step()
    assert (student.argsort(1) == teacher.argsort(1)).all()
    assert not torch.allclose(student, teacher, atol=0.1)


def bound(student: Array, teacher: Array) -> Term:
    values = {"s": torch.tensor(student)}, {"t": torch.tensor(teacher)}
    return Order().bind(Setting((), Pairing((Pair("s", "t"),)), *values, labelled=False))


def test_takes_channels_for_neurons_wherever_they_are_active() -> None:
    student, teacher = activations(6, 4, 3, 3), activations(6, 4, 5, 5, seed=1)
    found = bound(student, teacher)({"s": torch.tensor(student)}, {"t": torch.tensor(teacher)}, None)
    assert found.item() == pytest.approx(between(student.mean((2, 3)), teacher.mean((2, 3))), rel=1e-9)
    assert not list(bound(student, teacher).parameters())


def test_carries_another_width_by_a_regressor() -> None:
    student = activations(60, 12)
    teacher = student @ activations(12, 7, seed=1)
    term = bound(student, teacher)
    assert {tuple(p.shape) for p in term.parameters()} == {(7, 12), (7,)}
    assert term({"s": torch.tensor(student)}, {"t": torch.tensor(teacher)}, None).item() < 0.01
    strange = activations(60, 12, seed=9)
    assert term({"s": torch.tensor(strange)}, {"t": torch.tensor(teacher)}, None).item() > 1


def test_of_one_neuron_there_is_none() -> None:
    student = torch.tensor(activations(4, 1), requires_grad=True)
    found = Order().between(student, torch.tensor(activations(4, 1, seed=1)))
    assert found.item() == 0
    found.backward()
    assert not student.grad.any()
