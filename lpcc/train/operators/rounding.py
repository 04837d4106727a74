"""Rounding that gradients pass: the straight-through estimators of quantisation.

Rounding is constant almost everywhere, and so is what is beyond the range of the integers. In the place of the first
derivative, which is 0, that of the identity is taken (Bengio, Léonard, Courville, Estimating or propagating gradients
through stochastic neurons, 2013). For ``v = s * round(clip(x / s, low, high))`` this gives

    dv/dx = 1                 within the range, 0 beyond it
    dv/ds = round(u) - u      within the range, with u = x / s; low or high beyond it

which is how Esser et al., Learned step size quantization (ICLR 2020), equations 1 to 3, train the step s. `Quantize`
and `Dequantize` are the two halves of it, for graphs that compute on the integers in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lpcc.train.operators.call import Tensor

_EDGE = 1e-4
"""Steps by which a number may lie beyond the range, so that its ends themselves count as within."""


class Quantize(torch.autograd.Function):
    """``round(clip(x / scale, low - zero, high - zero)) + zero``, halves to even, as float32.

    `scale` broadcasts against x. `zero` is a whole number, or a tensor of them that broadcasts, too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor | float, low: int, high: int) -> Tensor:
        """Integers as float32."""
        units = x / scale
        ctx.save_for_backward(units, scale)
        ctx.range = low - zero, high - zero
        result = units.round()
        if isinstance(zero, torch.Tensor) or zero:
            result += zero
        return result.clamp_(low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """``du/dx = 1 / s`` and ``du/ds = -u / s`` within the range."""
        units, scale = ctx.saved_tensors
        low, high = ctx.range
        if isinstance(low, float):
            slope = torch.ops.aten.hardtanh_backward(grad, units, low - _EDGE, high + _EDGE)
        else:
            slope = grad * ((units >= low) & (units <= high))
        slope /= scale
        of_scale = -_products(slope, units, scale) if ctx.needs_input_grad[1] else None
        return slope, of_scale, None, None, None


class Dequantize(torch.autograd.Function):
    """``(q - zero) * scale``; `zero` is a number, or a tensor that broadcasts against q."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
        """Real numbers."""
        ctx.save_for_backward(q, scale)
        ctx.zero = zero
        return _centred(q, zero) * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """``s`` and ``q - zero``."""
        q, scale = ctx.saved_tensors
        of_scale = _products(grad, _centred(q, ctx.zero), scale) if ctx.needs_input_grad[1] else None
        return grad * scale, of_scale, None


class FakeQuantize(torch.autograd.Function):
    """``scale * round(clip(x / scale, low, high))``: both halves at once; `low` and `high` broadcast against x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The numbers that the integers stand for."""
        units = x / scale
        ctx.save_for_backward(units, scale, low, high)
        return torch.clamp(units, low, high).round_().mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Equations 2 and 3 of the paper."""
        units, scale, low, high = ctx.saved_tensors
        inside = (units >= low).logical_and_(units <= high)
        of_scale = None
        if ctx.needs_input_grad[1]:
            error = torch.clamp(units, low, high).round_() - units * inside
            of_scale = (grad * error).sum_to_size(scale.shape)
        return grad * inside, of_scale, None, None


class Sign(torch.autograd.Function):
    """``sign(x)``, of zero zero, with the slope of ``clip(x, -1, 1)``.

    Rastegari et al., XNOR-Net (ECCV 2016), section 3.1, after Courbariaux et al. (2016).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """-1, 0 or 1."""
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """1 where x is within [-1, 1]."""
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Through(torch.autograd.Function):
    """`rounded`, with the gradient of `x`: for numbers that were rounded in some way that torch knows nothing of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004
        """The rounded numbers."""
        return rounded.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        """As it came."""
        return grad, None


def _centred(q: Tensor, zero: Tensor | float) -> Tensor:
    return q - zero if isinstance(zero, torch.Tensor) or zero else q


def _products(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Sums of products, in the shape of a scale."""
    if scale.numel() == 1:
        return torch.dot(first.reshape(-1), second.reshape(-1)).reshape(scale.shape)
    return (first * second).sum_to_size(scale.shape)


def spread(per_row: Tensor, shape: tuple[int, ...], axis: int, block: int) -> Tensor:
    """Scales or zero points, as QuantizeLinear takes them, as a tensor that broadcasts against one of that shape."""
    if block:
        return per_row.repeat_interleave(block, dim=axis).narrow(axis, 0, shape[axis])
    if per_row.ndim != 1 or len(shape) < 2 or per_row.shape[0] == 1:
        return per_row
    wanted = [1] * len(shape)
    wanted[axis] = -1
    return per_row.reshape(wanted)
