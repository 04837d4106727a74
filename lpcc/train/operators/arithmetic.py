"""Arithmetic of each element, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Lowering:
    """An operator of two tensors. What computes shapes lies on the CPU: where it meets data, it goes to them."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        if a.device != b.device:
            a, b = (a.to(b.device), b) if a.device.type == "cpu" else (a, b.to(a.device))
        return function(a, b)

    return always(kernel)


def bitwise(function: Callable[..., Tensor]) -> Lowering:
    """An operator of the bits of integers: those of at most 16 bits, which are held as reals, become integers here."""

    def lowering(call: Call) -> Kernel:
        known = call.types[0] if call.types else None
        dtype = None if known is None else np.dtype(known)

        def kernel(*tensors: Tensor) -> Tensor:
            if not tensors[0].is_floating_point():
                return function(*tensors)
            if dtype is None:
                raise Unsupported("the type of the integers is unknown")
            found = function(*[tensor.to(torch.int64) for tensor in tensors])
            return wrapped(found, dtype).to(tensors[0].dtype)

        return kernel

    return lowering


def wrapped(x: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """Integers brought into the range of a type of at most 16 bits, as overflow brings them there."""
    low, high = integer_range(dtype)
    return (x - low) % (high - low + 1) + low


def integer_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and greatest integer of a type, those of less than a byte included."""
    bits = int(dtype.name.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def folded(function: Callable[[Tensor, Tensor], Tensor]) -> Lowering:
    """An operator of any number of tensors, taken two at a time."""
    two = binary(function)(Call(""))

    def kernel(*tensors: Tensor) -> Tensor:
        found = tensors[0]
        for tensor in tensors[1:]:
            found = two(found, tensor)
        return found

    return always(kernel)


def mean(*tensors: Tensor) -> Tensor:
    """The mean of the tensors."""
    found = tensors[0]
    for tensor in tensors[1:]:
        found = found + tensor
    return found / len(tensors)


def divide(call: Call) -> Kernel:
    """`a / b`; of integers the quotient is cut towards zero."""
    held = bool(call.types) and call.types[0] is not None and "int" in np.dtype(call.types[0]).name

    def quotient(a: Tensor, b: Tensor) -> Tensor:
        return torch.div(a, b, rounding_mode="trunc" if held or not a.is_floating_point() else None)

    return binary(quotient)(call)


def power(a: Tensor, b: Tensor) -> Tensor:
    """a^b, in the type of a."""
    if b.numel() == 1 and not b.requires_grad and b.device.type == "cpu" and a.dim() >= b.dim():
        exponent = b.item()
        if a.is_floating_point():
            return torch.pow(a, exponent)  # a number is faster, and 2 is a square
        if exponent == int(exponent) >= 0:
            return torch.pow(a, int(exponent))
    if a.is_floating_point():
        return torch.pow(a, b)
    return torch.pow(a.to(torch.float64), b).to(a.dtype)


def mod(call: Call) -> Kernel:
    """The remainder of a / b: with the sign of b, or under fmod of a."""
    return binary(torch.fmod if call.integer("fmod", 0) else torch.remainder)(call)


def bit_shift(call: Call) -> Kernel:
    """The bits of a, b places to the left or right; from the left the sign comes in. No count is too large."""
    left = call.text("direction", "LEFT") == "LEFT"
    known = call.types[0] if call.types else None
    bits = 64 if known is None else 8 * np.dtype(known).itemsize

    def shift(a: Tensor, b: Tensor) -> Tensor:
        wide, places = a.to(torch.int64), b.to(torch.int64)
        beyond = (places < 0) | (places >= bits)
        if left:
            return torch.where(beyond, 0, wide << places.clamp(0, 63)).to(a.dtype)
        return (wide >> torch.where(beyond, 63, places)).to(a.dtype)

    return bitwise(shift)(call)


def cum_sum(call: Call) -> Kernel:
    """Sums of all elements up to each; exclusive: without it; reverse: from the end."""
    return _cumulative(call, torch.cumsum, 0)


def cum_prod(call: Call) -> Kernel:
    """Products of all elements up to each; exclusive: without it; reverse: from the end."""
    return _cumulative(call, torch.cumprod, 1)


def _cumulative(call: Call, function: Kernel, neutral: int) -> Kernel:
    exclusive, reverse = bool(call.integer("exclusive", 0)), bool(call.integer("reverse", 0))

    def kernel(x: Tensor, axis: Tensor) -> Tensor:
        at = int(axis.item())
        y = x.flip(at) if reverse else x
        if exclusive:
            first = torch.full_like(y.narrow(at, 0, min(1, y.shape[at])), neutral)
            y = torch.cat([first, y.narrow(at, 0, max(y.shape[at] - 1, 0))], at)
        y = function(y, at, dtype=x.dtype)
        return y.flip(at) if reverse else y

    return kernel


def stepped(function: Callable[[Tensor], Tensor]) -> Lowering:
    """An operator that rounds. Its own gradient is zero: quantisers spelt out want it passed straight through."""

    def kernel(x: Tensor) -> Tensor:
        y = function(x.detach())
        return y + (x - x.detach()) if x.requires_grad else y

    kernel.__doc__ = "The nearest whole number in that direction; the gradient passes straight through."
    return always(kernel)


def negate(x: Tensor) -> Tensor:
    """-x."""
    return torch.neg(x)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return torch.reciprocal(x) if x.is_floating_point() else (1 / x).to(x.dtype)


def determinant(x: Tensor) -> Tensor:
    """The determinant of each square matrix of the last two axes."""
    return torch.linalg.det(x) if x.element_size() > 2 else torch.linalg.det(x.float()).to(x.dtype)


STANDARD: Mapping[str, Lowering] = {
    "Abs": always(torch.abs),
    "Acos": always(torch.acos),
    "Acosh": always(torch.acosh),
    "Add": binary(torch.add),
    "Asin": always(torch.asin),
    "Asinh": always(torch.asinh),
    "Atan": always(torch.atan),
    "Atanh": always(torch.atanh),
    "BitShift": bit_shift,
    "BitwiseAnd": bitwise(torch.bitwise_and),
    "BitwiseNot": bitwise(torch.bitwise_not),
    "BitwiseOr": bitwise(torch.bitwise_or),
    "BitwiseXor": bitwise(torch.bitwise_xor),
    "Ceil": stepped(torch.ceil),
    "Cos": always(torch.cos),
    "Cosh": always(torch.cosh),
    "CumProd": cum_prod,
    "CumSum": cum_sum,
    "Det": always(determinant),
    "Div": divide,
    "Erf": always(torch.erf),
    "Exp": always(torch.exp),
    "Floor": stepped(torch.floor),
    "Log": always(torch.log),
    "Max": folded(torch.maximum),
    "Mean": always(mean),
    "Min": folded(torch.minimum),
    "Mod": mod,
    "Mul": binary(torch.mul),
    "Neg": always(negate),
    "Pow": binary(power),
    "Reciprocal": always(reciprocal),
    "Round": stepped(torch.round),
    "Sin": always(torch.sin),
    "Sinh": always(torch.sinh),
    "Sqrt": always(torch.sqrt),
    "Sub": binary(torch.sub),
    "Sum": folded(torch.add),
    "Tan": always(torch.tan),
}
