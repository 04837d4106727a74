from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.soap import Soap  # noqa: E402

BETAS = (0.9, 0.95)


def descended(weight, gradients, rate=0.01, decay=0.0):
    """The optimiser, after steps along some gradients."""
    optimiser = Soap([{"params": [weight], "weight_decay": decay}], rate, BETAS)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
    return optimiser


def test_vectors_learn_as_in_adam() -> None:
    """The first gradient moves nothing, so Adam sees those after it."""
    torch.manual_seed(0)
    gradients = [torch.randn(5) for _ in range(8)]
    mine, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    descended(mine, gradients)
    adam = torch.optim.Adam([theirs], lr=0.01, betas=BETAS)
    for gradient in gradients[1:]:
        theirs.grad = gradient
        adam.step()
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (4, 2, 2, 1)])
def test_turning_the_problem_turns_the_steps(shape) -> None:
    """What Adam lacks: the steps do not depend on the axes that the weights happen to be written along.

    Sides differ by one at most: the first gradient then says of all axes but one where they are.
    """
    torch.manual_seed(1)
    rows, columns = shape[0], torch.Size(shape).numel() // shape[0]
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in (rows, columns))
    gradients = [torch.randn(rows, columns, dtype=torch.float64) for _ in range(25)]
    plain = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    turned = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    descended(plain, [gradient.reshape(shape) for gradient in gradients])
    descended(turned, [(left @ gradient @ right).reshape(shape) for gradient in gradients])
    expected = left @ plain.detach().reshape(rows, columns) @ right
    torch.testing.assert_close(turned.detach().reshape(rows, columns), expected, rtol=1e-6, atol=1e-9)
    assert plain.detach().abs().max() > 0.01


def test_it_beats_adam_where_the_valley_is_narrow_and_askew() -> None:
    torch.manual_seed(2)
    turn = torch.linalg.qr(torch.randn(12, 12))[0]
    scale = turn @ torch.diag(torch.logspace(0, -3, 12)) @ turn.T
    target = torch.randn(12, 12)
    left = {}
    for kind in ("soap", "adam"):
        weight = torch.nn.Parameter(torch.zeros(12, 12))
        optimiser = (
            Soap([{"params": [weight]}], 0.05, BETAS)
            if kind == "soap"
            else torch.optim.Adam([weight], lr=0.05, betas=BETAS)
        )
        for _ in range(150):
            optimiser.zero_grad()
            loss = ((weight - target) * (scale @ (weight - target))).sum()
            loss.backward()
            optimiser.step()
        left[kind] = float(loss.detach())
    assert left["soap"] < 0.5 * left["adam"]


def test_decay_is_decoupled() -> None:
    weight = torch.nn.Parameter(torch.full((2, 2), 4.0))
    descended(weight, [torch.zeros(2, 2)] * 3, rate=0.1, decay=0.5)
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 4.0 * 0.95**2))


def test_sides_that_are_too_long_have_no_axes_of_their_own(monkeypatch) -> None:
    monkeypatch.setattr("lpcc.train.loop.soap._LARGEST", 4)
    weight = torch.nn.Parameter(torch.zeros(3, 5))
    state = descended(weight, [torch.randn(3, 5) for _ in range(12)]).state[weight]
    assert "axes0" in state
    assert "axes1" not in state
    assert torch.isfinite(weight).all()


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    torch.manual_seed(3)
    gradients = [torch.randn(4, 6) for _ in range(24)]
    whole, parted = (torch.nn.Parameter(torch.ones(4, 6)) for _ in range(2))
    descended(whole, gradients)
    saved = copy.deepcopy(descended(parted, gradients[:13]).state_dict())
    again = Soap([{"params": [parted], "weight_decay": 0.0}], 0.01, BETAS)
    again.load_state_dict(saved)
    for gradient in gradients[13:]:
        parted.grad = gradient
        again.step()
    assert torch.equal(whole, parted)
