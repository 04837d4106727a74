from __future__ import annotations

from typing import Any

import pytest

from lpcc.errors import ModelError
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.optimisers import groups_of, optimiser_of, step_of  # noqa: E402
from lpcc.train.loop.soap import Soap  # noqa: E402


def parameter(*values: float) -> Any:
    return torch.nn.Parameter(torch.tensor(values))


class Student(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.filter, self.bias, self.unnamed = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3))
        self.weights, self.others = {"filter": self.filter}, {"bias": self.bias}


class Objective(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.regressor = torch.nn.Linear(2, 3)


def test_filters_and_regressors_decay_and_nothing_else() -> None:
    student, objective = Student(), Objective()
    optimiser = optimiser_of(Recipe(weight_decay=0.5), *groups_of(student, objective))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in [*student.named_parameters(), *objective.named_parameters()]} == {
        "filter": 0.5,
        "bias": 0.0,
        "unnamed": 0.0,
        "regressor.weight": 0.5,
        "regressor.bias": 0.0,
    }


def test_a_parameter_counts_once_and_frozen_ones_do_not() -> None:
    shared, frozen = parameter(1.0), torch.nn.Parameter(torch.ones(1), requires_grad=False)
    optimiser = optimiser_of(Recipe(), [shared, shared, frozen], [shared])
    assert [[p is shared for p in group["params"]] for group in optimiser.param_groups] == [[True]]


def test_each_step_brings_its_rate() -> None:
    weight = parameter(1.0)
    optimiser = optimiser_of(Recipe(optimiser="sgd", momentum=0, weight_decay=0), [weight], [])
    weight.sum().backward()
    step_of(optimiser, 0.25, clip=0)
    assert weight.item() == 0.75


@pytest.mark.parametrize(("kind", "moved"), [("adam", 0.01 / 16), ("adamw", 0.01 / 16), ("sgd", 0.01)])
def test_adam_moves_small_weights_by_little(kind: Any, moved: float) -> None:
    """Of a size of 1/256 they learn at 1/16 of the rate; zeros do not count, biases have the whole rate."""
    small, usual, bias = parameter(2**-8, 0.0, -(2**-8)), parameter(1.0), parameter(2**-8)
    optimiser = optimiser_of(Recipe(optimiser=kind, momentum=0, weight_decay=0), [small, usual], [bias])
    for tensor in (small, usual, bias):
        tensor.grad = torch.ones_like(tensor)
    before = [tensor.detach().clone() for tensor in (small, usual, bias)]
    step_of(optimiser, 0.01, clip=0)
    steps = [float((old - new.detach())[0]) for old, new in zip(before, (small, usual, bias), strict=True)]
    assert steps == pytest.approx([moved, 0.01, 0.01], rel=1e-3)


@pytest.mark.parametrize("values", [(0.0, 0.0), (float("nan"), 1.0)])
def test_weights_without_a_size_learn_at_the_full_rate(values: tuple[float, ...]) -> None:
    assert optimiser_of(Recipe(), [parameter(*values)], []).param_groups[0]["share"] == 1


def test_nothing_to_train_is_one_line() -> None:
    with pytest.raises(ModelError, match="the model has no weights that can be trained"):
        optimiser_of(Recipe(), [], [])


def test_kinds() -> None:
    weight = parameter(1.0)
    sgd = optimiser_of(Recipe(optimiser="sgd", momentum=0.8), [weight], [])
    assert (type(sgd), sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (torch.optim.SGD, 0.8, True)
    assert not optimiser_of(Recipe(optimiser="sgd", nesterov=False), [weight], []).defaults["nesterov"]
    assert not optimiser_of(Recipe(optimiser="sgd", momentum=0), [weight], []).defaults["nesterov"]
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("soap", Soap)):
        found = optimiser_of(Recipe(optimiser=name, momentum=0.8), [weight], [])  # type: ignore[arg-type]
        assert type(found) is kind
        assert found.defaults["betas"] == (0.8, 0.95 if name == "soap" else 0.999)


def test_sgd_with_nesterov_is_the_formula() -> None:
    weight = parameter(1.0)
    optimiser = optimiser_of(Recipe(optimiser="sgd", momentum=0.5, weight_decay=0.1), [weight], [])
    expected, velocity = 1.0, 0.0
    for step in range(4):
        optimiser.zero_grad()
        (weight**2).sum().backward()
        assert step_of(optimiser, 0.1 / (step + 1), clip=0)
        gradient = 2 * expected + 0.1 * expected
        velocity = gradient if step == 0 else 0.5 * velocity + gradient
        expected -= 0.1 / (step + 1) * (gradient + 0.5 * velocity)
    assert weight.item() == pytest.approx(expected)


def test_adamw_decays_apart_from_the_gradient() -> None:
    weight = parameter(4.0)
    optimiser = optimiser_of(Recipe(optimiser="adamw", weight_decay=0.5), [weight], [])
    (weight * 1e-3).sum().backward()
    step_of(optimiser, 0.1, clip=0)
    assert weight.item() == pytest.approx(
        4 * (1 - 0.1 * 0.5) - 0.1, rel=1e-3
    )  # the size of the gradient is divided out


def test_the_norm_of_all_gradients_is_cut() -> None:
    a, b = parameter(0.0), parameter(0.0)
    optimiser = optimiser_of(Recipe(optimiser="sgd", momentum=0, weight_decay=0), [a], [b])
    (3 * a + 4 * b).sum().backward()
    assert step_of(optimiser, 1.0, clip=1.0)
    assert (a.item(), b.item()) == pytest.approx((-0.6, -0.8), rel=1e-4)
    optimiser.zero_grad()
    (3 * a + 4 * b).sum().backward()
    step_of(optimiser, 1.0, clip=100.0)
    assert (a.item(), b.item()) == pytest.approx((-3.6, -4.8), rel=1e-4)


def test_no_step_where_the_gradient_is_not_finite() -> None:
    weight = parameter(1.0)
    optimiser = optimiser_of(Recipe(), [weight], [])
    (weight * float("inf")).sum().backward()
    assert not step_of(optimiser, 1.0, clip=1.0)
    assert weight.item() == 1.0
