"""Activations: functions of each element, and of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


def clip(call: Call) -> Kernel:
    """min(max(x, low), high); before opset 11 low and high are attributes."""
    if call.opset < 11:
        least, most = call.real("min", -math.inf), call.real("max", math.inf)
        return lambda x: torch.clamp(x, least, most)

    def kernel(x: Tensor, low: Tensor = None, high: Tensor = None) -> Tensor:
        low, high = _bound(low, x), _bound(high, x)
        if low is None and high is None:
            return x
        if (low is None or high is None) or isinstance(low, torch.Tensor) == isinstance(high, torch.Tensor):
            return torch.clamp(x, low, high)
        return torch.clamp(torch.clamp(x, min=low), max=high)

    return kernel


def _bound(bound: Tensor, x: Tensor) -> Tensor:
    """A bound as a number where that costs nothing (torch is faster with numbers), else as a tensor of x's type."""
    if bound is None:
        return None
    if bound.requires_grad or bound.device.type != "cpu":
        return bound.to(x)
    return bound.item()


def leaky_relu(call: Call) -> Kernel:
    """`x` where x >= 0, else `alpha * x`."""
    alpha = call.real("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """`x` where x >= 0, else `slope * x`."""
    if x.is_floating_point() and (slope.numel() == 1 or (x.dim() > 1 and _per_channel(x, slope))):
        return torch.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, x * slope)


def _per_channel(x: Tensor, slope: Tensor) -> bool:
    shape = tuple(slope.shape)
    return shape[-(x.dim() - 1) :] == (x.shape[1], *[1] * (x.dim() - 2)) and slope.numel() == x.shape[1]


def elu(call: Call) -> Kernel:
    """`x` where x > 0, else `alpha * (exp(x) - 1)`."""
    alpha = call.real("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def selu(call: Call) -> Kernel:
    """`gamma * x` where x > 0, else `gamma * alpha * (exp(x) - 1)`."""
    alpha = call.real("alpha", 1.67326319217681884765625)
    gamma = call.real("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


def celu(call: Call) -> Kernel:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    alpha = call.real("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


def hard_sigmoid(call: Call) -> Kernel:
    """`alpha * x + beta`, between 0 and 1."""
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return F.softplus(x, 1.0, 40.0)  # above 40 it is x in double precision too


def thresholded_relu(call: Call) -> Kernel:
    """`x` where x > alpha, else 0."""
    alpha = call.real("alpha", 1.0)
    return lambda x: F.threshold(x, alpha, 0.0)


def shrink(call: Call) -> Kernel:
    """`x + bias` where x < -lambd, `x - bias` where x > lambd, else 0."""
    bias, threshold = call.real("bias", 0.0), call.real("lambd", 0.5)

    def kernel(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, zero)).to(x.dtype)

    return kernel


def gelu(call: Call) -> Kernel:
    """`x * Phi(x)`, Phi the normal distribution's function; approximate=tanh: its approximation by tanh."""
    approximate = call.text("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise Unsupported(f"approximate={approximate} is not known")
    return lambda x: F.gelu(x, approximate=approximate)


def swish(call: Call) -> Kernel:
    """`x * sigmoid(alpha * x)`."""
    alpha = call.real("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


def quick_gelu(call: Call) -> Kernel:
    """`x * sigmoid(alpha * x)`, alpha 1.702 where not given."""
    alpha = call.real("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Gelu of x + bias."""
    return F.gelu(x + bias)


def fast_gelu(x: Tensor, bias: Tensor = None) -> Tensor:
    """Gelu by tanh, of x + bias."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def swiglu(call: Call) -> Kernel:
    """swish(gate) * value."""
    alpha = call.real("alpha", 1.0)
    return lambda gate, value: gate * torch.sigmoid(alpha * gate) * value


def _rows(call: Call, function: Kernel) -> Kernel:
    """`function(x, axis)` along `axis`; before opset 13 over all axes from `axis` on, as one."""
    if call.opset >= 13:
        axis = call.integer("axis", -1)
        return lambda x: function(x, axis)
    axis = call.integer("axis", 1)

    def kernel(x: Tensor) -> Tensor:
        if axis % max(x.dim(), 1) == x.dim() - 1:
            return function(x, -1)
        return function(x.flatten(axis), -1).reshape(x.shape) if x.dim() else function(x.reshape(1), -1).reshape(())

    return kernel


def softmax(call: Call) -> Kernel:
    """exp(x) / sum of exp(x)."""
    return _rows(call, torch.softmax)


def log_softmax(call: Call) -> Kernel:
    """The logarithm of softmax."""
    return _rows(call, torch.log_softmax)


def hardmax(call: Call) -> Kernel:
    """1 at the first greatest element, else 0."""

    def of(x: Tensor, axis: int) -> Tensor:
        first = _first_greatest(x, axis)
        return torch.zeros_like(x).scatter(axis, first, 1)

    return _rows(call, of)


def _first_greatest(x: Tensor, axis: int) -> Tensor:
    """The place of the first greatest element; torch's argmax may name any of equal ones."""
    return (x == x.amax(axis, keepdim=True)).to(torch.uint8).argmax(axis, keepdim=True)


STANDARD: Mapping[str, Lowering] = {
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": always(F.hardswish),
    "Hardmax": hardmax,
    "LeakyRelu": leaky_relu,
    "LogSoftmax": log_softmax,
    "Mish": always(F.mish),
    "PRelu": always(prelu),
    "Relu": always(relu),
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": always(torch.sigmoid),
    "Softmax": softmax,
    "Softplus": always(softplus),
    "Softsign": always(F.softsign),
    "SwiGLU": swiglu,
    "Swish": swish,
    "Tanh": always(torch.tanh),
    "ThresholdedRelu": thresholded_relu,
}

MICROSOFT: Mapping[str, Lowering] = {
    "BiasGelu": always(bias_gelu),
    "FastGelu": always(fast_gelu),
    "Gelu": gelu,
    "QuickGelu": quick_gelu,
}
