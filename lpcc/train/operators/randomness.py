"""Operators that draw random numbers, from torch's own generator: `torch.manual_seed` makes them repeatable."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor
from lpcc.train.operators.shapes import torch_type


def dropout(call: Call) -> Kernel:
    """In training each element is dropped with probability `ratio`, the others are divided by 1 - ratio; else x.

    The second output is where elements were kept. A node whose third input is true drops outside training too.
    """
    stated, mode = call.real("ratio", 0.5), call.mode
    masked = call.outputs > 1

    def kernel(x: Tensor, ratio: Tensor = None, training: Tensor = None) -> Tensor:
        p = stated if ratio is None else float(ratio.item())
        if p and (mode.training or (training is not None and bool(training.item()))):
            mask = torch.rand_like(x) >= p
            y = torch.where(mask, x / (1 - p) if p < 1 else x, 0)
            return (y, mask) if masked else y
        return (x, torch.ones_like(x, dtype=torch.bool)) if masked else x

    return kernel


def random_normal(call: Call) -> Kernel:
    """Normal random numbers, in a shape that is stated or that of the input."""
    mean, deviation = call.real("mean", 0.0), call.real("scale", 1.0)
    return _random(call, lambda x: x.normal_(mean, deviation))


def random_uniform(call: Call) -> Kernel:
    """Random numbers between low and high, in a shape that is stated or that of the input."""
    low, high = call.real("low", 0.0), call.real("high", 1.0)
    return _random(call, lambda x: x.uniform_(low, high))


def _random(call: Call, fill: Kernel) -> Kernel:
    stated, shape = call.attrs.get("dtype"), call.integers("shape")
    dtype = None if stated is None else torch_type(int(stated))
    if shape is not None:
        return lambda: fill(torch.empty(shape, dtype=dtype or torch.float32))
    return lambda x: fill(torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device))


def bernoulli(call: Call) -> Kernel:
    """1 with the probability that x states, else 0."""
    stated = call.attrs.get("dtype")
    dtype = None if stated is None else torch_type(int(stated))
    return lambda x: torch.bernoulli(x).to(dtype or x.dtype)


def multinomial(call: Call) -> Kernel:
    """Classes drawn by their logarithmic probabilities."""
    count, dtype = call.integer("sample_size", 1), torch_type(call.integer("dtype", 6))
    return lambda x: torch.multinomial(torch.softmax(x, 1), count, replacement=True).to(dtype)


STANDARD: Mapping[str, Lowering] = {
    "Bernoulli": bernoulli,
    "Dropout": dropout,
    "Multinomial": multinomial,
    "RandomNormal": random_normal,
    "RandomNormalLike": random_normal,
    "RandomUniform": random_uniform,
    "RandomUniformLike": random_uniform,
}
