"""Straight-through estimators: their gradients against the papers' formulas and against autograd's own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.operators.rounding import (  # noqa: E402
    Dequantize,
    FakeQuantize,
    Quantize,
    Sign,
    Through,
    spread,
)


def composed(x, scale, zero, low, high):
    """As Esser et al. write it: ``clip(x / s)``, rounded with the gradient of the identity, times s."""
    units = torch.clamp(x / scale, low - zero, high - zero)
    return (units + (torch.round(units) - units).detach()) * scale


def learned_step(x, scale, zero, low, high):
    """Equation 3: the derivative of each number by the scale."""
    units = x / scale
    low, high = low - zero, high - zero
    inside = (units >= low) & (units <= high)
    return torch.where(inside, torch.round(units) - units, torch.clamp(units, low, high).round())


CASES = [
    pytest.param((), 0.0, -8, 7, id="int4"),
    pytest.param((), 0.0, 0, 255, id="uint8 behind a Relu"),
    pytest.param((), 113.0, 0, 255, id="uint8 with a zero point"),
    pytest.param((), -128.0, -128, 127, id="int8 behind a Relu"),
    pytest.param((), 0.0, -32768, 32767, id="int16"),
    pytest.param((1, 6, 1), 0.0, -2, 1, id="int2 by channel"),
]


@pytest.mark.parametrize(("shape", "zero", "low", "high"), CASES)
def test_gradients_are_those_of_learned_step_size_quantization(shape, zero, low, high):
    torch.manual_seed(0)
    scale = torch.rand(shape) * 0.1 + 0.05
    x = torch.randn(5, 6, 7) * scale * (high - low) * 0.4
    weight = torch.randn(x.shape)
    found = []
    ends = torch.tensor(low - zero), torch.tensor(high - zero)
    for function in (
        lambda x, s: composed(x, s, zero, low, high),
        lambda x, s: Dequantize.apply(Quantize.apply(x, s, zero, low, high), s, zero),
        lambda x, s: Dequantize.apply(Quantize.apply(x, s, torch.tensor(zero), low, high), s, torch.tensor(zero)),
        lambda x, s: FakeQuantize.apply(x, s, *ends),
    ):
        own, step = x.clone().requires_grad_(), scale.clone().requires_grad_()
        result = function(own, step)
        (result * weight).sum().backward()
        found.append((result.detach(), own.grad, step.grad))
    first = found[0]
    for other in found[1:]:
        assert torch.equal(other[0], first[0])
        torch.testing.assert_close(other[1], first[1])
        torch.testing.assert_close(other[2], first[2], rtol=1e-3, atol=1e-3 * float(first[2].abs().max()) + 1e-3)
    expected = (weight * learned_step(x, scale, zero, low, high)).sum_to_size(shape)
    torch.testing.assert_close(found[3][2], expected, rtol=1e-4, atol=1e-4)
    assert 0 < (found[3][1] == 0).sum() < x.numel(), "some numbers, not all, are beyond the range"


def test_integers_are_those_of_onnx():
    x = torch.tensor([-3.0, -0.25, 0.25, 0.75, 1.25, 200.0])
    found = Quantize.apply(x, torch.tensor(0.5), torch.tensor(100.0), 0, 255)
    assert found.tolist() == [94.0, 100.0, 100.0, 102.0, 102.0, 255.0]  # halves to even before the zero point is added


def test_dequantizing_has_its_true_derivatives():
    q = torch.randint(-8, 8, (4, 3), dtype=torch.float64).requires_grad_()
    scale = (torch.rand(3, dtype=torch.float64) + 0.1).requires_grad_()
    zero = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, s: Dequantize.apply(q, s, zero), (q, scale))
    assert torch.autograd.gradcheck(lambda q, s: Dequantize.apply(q, s, 3.0), (q, scale))


def test_beyond_the_range_the_scale_has_its_true_derivative():
    x = torch.tensor([-9.0, 5.0, 7.0], dtype=torch.float64)
    ends = torch.tensor(-2.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: FakeQuantize.apply(x, s, *ends), (scale,))


def test_no_gradient_is_computed_for_a_scale_that_needs_none():
    x = torch.randn(4, requires_grad=True)
    Dequantize.apply(Quantize.apply(x, torch.tensor(0.5), 0.0, -8, 7), torch.tensor(0.5), 0.0).sum().backward()
    assert torch.equal(x.grad, torch.ones(4))


def test_sign_passes_gradients_near_zero():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    y = Sign.apply(x)
    assert y.tolist() == [-1, -1, -1, 0, 1, 1]
    y.backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]


def test_through():
    x = torch.tensor([0.3, 1.7], requires_grad=True)
    y = Through.apply(x, torch.tensor([0.0, 2.0]))
    (y * torch.tensor([3.0, 5.0])).sum().backward()
    assert y.tolist() == [0, 2]
    assert x.grad.tolist() == [3, 5]


def test_scales_are_spread_as_onnx_has_them():
    row = torch.arange(3.0)
    assert spread(row, (2, 3, 4), 1, 0).shape == (1, 3, 1)
    assert spread(row, (4, 3), -1, 0).shape == (1, 3)
    assert spread(torch.tensor(2.0), (4, 3), 1, 0).shape == ()
    assert spread(torch.tensor([2.0]), (4, 3), 0, 0).shape == (1,)
    blocks = torch.arange(6.0).reshape(3, 2)  # of two rows each, the last of one
    assert spread(blocks, (5, 2), 0, 2)[:, 0].tolist() == [0, 0, 2, 2, 4]


@pytest.mark.parametrize("zero", [-2.0, torch.tensor(-2.0)], ids=["number", "tensor"])
def test_the_ends_of_the_range_are_within_it(zero):
    x = torch.tensor([-0.6, -0.5, 0.0, 1.0, 1.6], requires_grad=True)
    Quantize.apply(x, torch.tensor(0.5), zero, -3, 0).sum().backward()
    assert x.grad.tolist() == [0, 2, 2, 2, 0]
