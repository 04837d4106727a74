"""Comparisons and logic, element by element."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lpcc.train.operators.arithmetic import binary
from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, always


def is_inf(call: Call) -> Kernel:
    """Whether each element is infinite, of the signs that are asked for."""
    positive, negative = call.integer("detect_positive", 1), call.integer("detect_negative", 1)

    def kernel(x: Tensor) -> Tensor:
        if positive and negative:
            return torch.isinf(x)
        if positive:
            return torch.isposinf(x)
        return torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)

    return kernel


STANDARD: Mapping[str, Lowering] = {
    "And": binary(torch.logical_and),
    "Equal": binary(torch.eq),
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "IsInf": is_inf,
    "IsNaN": always(torch.isnan),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Not": always(torch.logical_not),
    "Or": binary(torch.logical_or),
    "Xor": binary(torch.logical_xor),
}
