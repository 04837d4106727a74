"""QuantizeLinear, DequantizeLinear and their like as fake quantisation: integers are float32 tensors with gradients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto

from lpcc.analysis import rules
from lpcc.door.lazy import numpy_dtype
from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported
from lpcc.train.operators.rounding import Dequantize, Quantize, Sign, spread

_DEFAULT = np.dtype(np.uint8)


def integer_ends(dtype: np.dtype) -> tuple[int, int]:
    """Least and greatest integer of a type, sub-byte ones included. Raises Unsupported where it is none of integers."""
    if "int" not in dtype.name:
        raise Unsupported(f"quantises to {dtype.name}: only integers are known")
    bits = rules.bits(dtype)
    return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _quantize(call: Call) -> Kernel:
    low, high = integer_ends(_written(call))
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    point = _ZeroPoint(axis, block)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        shape = tuple(x.shape)
        return Quantize.apply(x.float(), spread(scale.float(), shape, axis, block), point.of(zero, shape), low, high)

    return run


def _written(call: Call) -> np.dtype:
    """The type of integers that a QuantizeLinear writes."""
    asked = numpy_dtype(call.integer("output_dtype", TensorProto.UNDEFINED))
    if asked is not None:
        return asked
    if call.inputs < 3:
        return _DEFAULT
    zero = call.types[2] if len(call.types) > 2 else None
    if zero is None:
        raise Unsupported("the type of its zero point is unknown")
    return np.dtype(zero)


def _dequantize(call: Call) -> Kernel:
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    point = _ZeroPoint(axis, block)

    def run(q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        shape = tuple(q.shape)
        return Dequantize.apply(q.float(), spread(scale, shape, axis, block), point.of(zero, shape))

    return run


class _ZeroPoint:
    """The zero point of a node: one number is read from its tensor once, for as long as it is that tensor."""

    def __init__(self, axis: int, block: int) -> None:
        self._axis, self._block = axis, block
        self._tensor: Tensor = None
        self._number = 0.0

    def of(self, zero: Tensor | None, shape: tuple[int, ...]) -> Tensor | float:
        """The number, or a tensor that broadcasts against one of `shape`."""
        if zero is None:
            return 0.0
        if zero.numel() != 1:
            return spread(zero.float(), shape, self._axis, self._block)
        if zero is not self._tensor:
            self._tensor, self._number = zero, float(zero)
        return self._number


def _dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear: uint8 over the range of the tensor, with zero in it; the range is differentiated too."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).round().clamp(0, 255).detach()
    return Quantize.apply(x.float(), scale, zero, 0, 255), scale, zero


STANDARD: Mapping[str, Lowering] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": lambda _: _dynamic,
    "Sign": lambda _: Sign.apply,
}
MICROSOFT: Mapping[str, Lowering] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
