"""What onnxruntime's kernel for the sum of two quantised tensors computes on Arm.

It rounds in fixed point, that of x86 in float, and they differ where a sum lies close to the middle between two
integers: one value in 75,000 was seen to, enough to change every output of MobileNetV2. All its
other integer kernels were seen to give the same on both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.quantized import params_of
from lpcc.formats.affine import Params
from lpcc.simulate.results import EIGHT_BITS, quantized_result

_INT32, _DOUBLE = 6, 11  # types of ONNX tensors, for Cast
_BITS = 21
"""Bits of the larger multiplier of a fixed-point sum, less one."""
_LEAST_SHIFT, _MOST_SHIFT = 13, 31
_LEAST_RATIO, _MOST_RATIO = 2.0**-14, 2.0**8


def sums_in_fixed_point(graph: gs.Graph) -> int:
    """Write the sums of quantised tensors in the integer arithmetic of their kernel on Arm, in place; how many.

    A sum is one where both operands come from integers of 8 bits and the result goes to such integers alone, through an
    activation at most that clipping to them makes superfluous: what onnxruntime has an integer kernel for.
    """
    count = 0
    with edit.Edit(graph) as editing:
        for node in editing.nodes:
            if editing.live(node) and edit.op(node) == "Add":
                count += _rewritten(editing, node)
    return count


@dataclass(frozen=True)
class FixedPoint:
    """``((a - a_zero) * a_factor + (b - b_zero) * b_factor) / 2**shift``, rounded, halves away from zero."""

    a_factor: int
    b_factor: int
    shift: int

    @classmethod
    def of(cls, a: Params, b: Params, result: Params) -> FixedPoint | None:
        """The numbers of a sum; None where their scales are too far apart, and the kernel computes in float."""
        ratios = [np.float32(p.scale) / np.float32(result.scale) for p in (a, b)]
        if not all(_LEAST_RATIO <= ratio < _MOST_RATIO for ratio in ratios):
            return None
        shift = _BITS - (math.frexp(float(max(ratios)))[1] - 1)
        if not _LEAST_SHIFT <= shift <= _MOST_SHIFT:
            return None
        factors = [int(np.rint(np.float32(ratio) * np.float32(2.0**shift))) for ratio in ratios]
        if max(factors) >= 1 << (_BITS + 1) or max(factors) < 1 << _BITS:
            return None
        return cls(factors[0], factors[1], shift)


def _rewritten(editing: edit.Edit, node: gs.Node) -> bool:
    """Rewrite one Add; whether it is such a sum."""
    makers = [maker for maker in map(editing.producer, node.inputs) if maker is not None]
    operands = [params for params in map(params_of, node.inputs) if params is not None]
    found = quantized_result(editing, node)
    if found is None or len(makers) != 2 or len(operands) != 2:
        return False
    quantizer, result, tail = found
    a, b = operands
    sum_ = FixedPoint.of(a, b, result)
    if sum_ is None or not a.dtype == b.dtype == result.dtype or result.dtype not in EIGHT_BITS:
        return False
    write = _Arithmetic(editing, node.outputs[0])
    terms = [
        write.times(maker.inputs[0], params.zero_point, factor)
        for maker, params, factor in zip(makers, operands, (sum_.a_factor, sum_.b_factor), strict=True)
    ]
    clipped = write.rounded(terms, sum_.shift, result)
    target = quantizer.outputs[0]
    for one in (quantizer, tail, node):
        if one is not None:
            editing.remove(one)
    for maker in makers:
        if editing.live(maker) and not maker.outputs[0].outputs and not editing.is_output(maker.outputs[0]):
            editing.remove(maker)
    editing.add("Cast", [clipped], [target], {"to": EIGHT_BITS[result.dtype]}, name=target.name)
    return True


class _Arithmetic:
    """Nodes that compute on whole numbers: in int32, then in double, which holds them exactly."""

    def __init__(self, editing: edit.Edit, like: gs.Tensor) -> None:
        self._edit = editing
        self._like = like  # a tensor of the result's name and shape

    def times(self, integers: gs.Tensor, zero_point: int, factor: int) -> gs.Tensor:
        """``(integers - zero_point) * factor``."""
        wide = self._node("Cast", [integers], np.int32, to=_INT32)
        centred = self._node("Sub", [wide, self._constant(zero_point, np.int32)], np.int32)
        return self._node("Mul", [centred, self._constant(factor, np.int32)], np.int32)

    def rounded(self, terms: list[gs.Tensor], shift: int, result: Params) -> gs.Tensor:
        """The sum of `terms`, divided by ``2**shift``, rounded and clipped to the integers of `result`."""
        total = self._node("Cast", [self._node("Add", terms, np.int32)], to=_DOUBLE)
        scaled = self._node("Mul", [total, self._constant(2.0**-shift)])
        magnitude = self._node("Floor", [self._node("Add", [self._node("Abs", [scaled]), self._constant(0.5)])])
        signed = self._node("Mul", [magnitude, self._node("Sign", [scaled])])
        shifted = self._node("Add", [signed, self._constant(result.zero_point)])
        info = np.iinfo(result.dtype)
        return self._node("Clip", [shifted, self._constant(info.min), self._constant(info.max)])

    def _node(self, op: str, inputs: list[gs.Tensor], dtype: type = np.float64, **attrs: int) -> gs.Tensor:
        made = self._edit.fresh(f"{self._like.name}_fixed_point", np.dtype(dtype), self._like.shape)
        self._edit.add(op, inputs, [made], attrs, name=made.name)
        return made

    def _constant(self, value: float, dtype: type = np.float64) -> gs.Constant:
        return self._edit.constant(f"{self._like.name}_number", np.asarray(value, dtype=dtype))
