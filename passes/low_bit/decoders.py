"""Weights as small integer constants and the few standard operators that turn them into numbers.

What is computed from constants alone, onnxruntime computes once, when it loads the model: the layer then runs as it did
in float, at the same speed. A DequantizeLinear it does not: in front of a convolution that runs in float it would be
computed in every inference (1.5 times the time of a 3x3 convolution of 64 channels) and would keep the convolution from
its fast layout. In front of a matrix product it becomes one kernel with it, MatMulNBits, which reads the integers as
they are.

| format | decoder |
|---|---|
| integers, fixed point, DoReFa | ``Cast``, ``Sub`` of an offset if there is one, ``Mul`` by the scale |
| powers of two | ``Cast``, ``Gather`` in the table of powers, ``Add`` of the terms, ``Mul`` by the scale |
| ternary | ``Cast``, ``Mul``; two scales: ``Max`` and ``Min`` with zero, ``Mul`` of each, ``Add`` |
| binary | eight to a byte: ``Cast``, ``Gather`` in a table of signs by byte, ``Reshape``, ``Mul`` by the scale |
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from lpcc import edit
from lpcc.formats.format import Array, Codes, Format, Layout, Scales
from lpcc.formats.integer import AffineScales
from lpcc.formats.powers import PowerOfTwo, PowerScales
from lpcc.formats.signs import Binary, TernaryScales

_FLOAT = np.dtype(np.float32)
_SIGNED: Final[dict[int, np.dtype[Any]]] = {
    2: np.dtype(ml_dtypes.int2),
    4: np.dtype(ml_dtypes.int4),
    8: np.dtype(np.int8),
    16: np.dtype(np.int16),
    32: np.dtype(np.int32),
}
_UNSIGNED: Final[dict[int, np.dtype[Any]]] = {
    2: np.dtype(ml_dtypes.uint2),
    4: np.dtype(ml_dtypes.uint4),
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
}
OPSETS = {"int2": 25, "uint2": 25, "int4": 21, "uint4": 21}
"""The first opset that has an integer type, where that is not the one that all decoders need."""


def container(low: int, high: int) -> np.dtype[Any]:
    """The smallest integer type of ONNX that holds the whole numbers from `low` to `high`."""
    for bits in _SIGNED:
        if low >= 0 and high < 2**bits:
            return _UNSIGNED[bits]
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return _SIGNED[bits]
    raise ValueError(f"no integer type holds {low} to {high}")


def stored_in(kind: Format[Any]) -> np.dtype[Any]:
    """The type of the constants that hold the codes of a format; binary ones are packed into bytes."""
    return np.dtype(np.uint8) if isinstance(kind, Binary) else container(*kind.ends)


class Decoders:
    """Writes weights of one format into a graph under edit. Tables are shared by all layers."""

    def __init__(self, editing: edit.Edit, kind: Format[Any]) -> None:
        self._edit = editing
        self._kind = kind
        self._tables: dict[str, gs.Constant] = {}

    def write(self, name: str, codes: Codes, scales: Scales) -> gs.Tensor:
        """The tensor that a layer reads in place of the weights called `name`."""
        if isinstance(self._kind, PowerOfTwo) and isinstance(scales, PowerScales):
            return self._powers(name, self._kind, codes, scales)
        if isinstance(self._kind, Binary):
            return self._binary(name, codes[0], scales)
        stored = self._edit.constant(f"{name}_codes", codes[0].astype(stored_in(self._kind)))
        if isinstance(scales, TernaryScales) and not np.array_equal(scales.scale, scales.negative):
            return self._two_scales(name, self._cast(name, stored), scales, codes[0])
        found = self._cast(name, stored)
        if isinstance(scales, AffineScales) and scales.offset.any():
            same = bool((scales.offset == scales.offset[0]).all())
            values = scales.offset[0] if same else scales.spread(scales.offset, codes[0])
            offset = self._edit.constant(f"{name}_offset", np.asarray(values))
            found = self._node("Sub", [found, offset], f"{name}_centred", codes[0].shape)
        return self._scaled(name, found, scales, codes[0])

    def dequantize(self, name: str, codes: Array, scales: AffineScales) -> gs.Tensor:
        """The weights (inputs, outputs) of a matrix product through a DequantizeLinear, which becomes part of it."""
        layout, dtype = scales.layout, stored_in(self._kind)
        shape = layout.shape(codes.shape)
        inputs = [
            self._edit.constant(f"{name}_codes", codes.astype(dtype)),
            self._edit.constant(f"{name}_scale", _stored(scales.scale, layout, shape, codes.shape)),
        ]
        if scales.offset.any():
            offset = _stored(scales.offset, layout, shape, codes.shape)
            inputs.append(self._edit.constant(f"{name}_zero_point", offset.astype(dtype)))
        attrs = {} if layout.axis is None else {"axis": layout.axis}
        if layout.block:
            attrs["block_size"] = layout.block
        return self._node("DequantizeLinear", inputs, f"{name}_decoded", codes.shape, attrs)

    def _powers(self, name: str, kind: PowerOfTwo, codes: Codes, scales: PowerScales) -> gs.Tensor:
        """Each term of those rows alone that have it, the rows of the others filled up with zeros."""
        table = self._table("powers", kind.table)
        shape, axis = codes[0].shape, scales.layout.axis
        sums: list[gs.Tensor] = []
        for i, code in enumerate(codes):
            rows = np.flatnonzero(scales.terms > i)
            if i and not len(rows):
                break
            every = axis is None or not _pays(code, axis, len(rows), 4 if kind.width > 2 else 2)
            hint = f"{name}_{i + 1}"
            kept = code if every or axis is None else _with_zero_row(np.take(code, rows, axis), axis)
            stored = self._edit.constant(f"{hint}_codes", kept.astype(stored_in(kind)))
            places = self._cast(hint, stored, TensorProto.INT32)
            term = self._node("Gather", [table, places], f"{hint}_powers", kept.shape)
            if not every and axis is not None:
                order = np.full(shape[axis], len(rows), dtype=np.int32)
                order[rows] = np.arange(len(rows))
                inputs = [term, self._edit.constant(f"{hint}_rows", order)]
                term = self._node("Gather", inputs, f"{hint}_spread", shape, {"axis": axis})
            sums.append(self._node("Add", [sums[-1], term], f"{name}_sum", shape) if sums else term)
        return self._scaled(name, sums[-1], scales, codes[0])

    def _binary(self, name: str, code: Array, scales: Scales) -> gs.Tensor:
        packed = np.packbits(code.astype(bool).reshape(-1))
        signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int8) * 2 - 1
        table = self._table("signs", signs)
        stored = self._edit.constant(f"{name}_codes", packed)
        places = self._cast(name, stored, TensorProto.INT32)
        found = self._node("Gather", [table, places], f"{name}_signs", (len(packed), 8), dtype=np.dtype(np.int8))
        if code.size % 8:
            found = self._reshaped(found, f"{name}_flat", (8 * len(packed),))
            ends = [self._edit.constant(f"{name}_{i}", np.array([n])) for i, n in enumerate((0, code.size, 0))]
            found = self._node("Slice", [found, *ends], f"{name}_cut", (code.size,), dtype=np.dtype(np.int8))
        found = self._reshaped(found, f"{name}_shaped", code.shape)
        return self._scaled(name, self._cast(f"{name}_float", found), scales, code)

    def _reshaped(self, tensor: gs.Tensor, hint: str, shape: tuple[int, ...]) -> gs.Tensor:
        wanted = self._edit.constant(f"{hint}_shape", np.array(shape, dtype=np.int64))
        return self._node("Reshape", [tensor, wanted], hint, shape, dtype=np.dtype(np.int8))

    def _two_scales(self, name: str, signs: gs.Tensor, scales: TernaryScales, like: Array) -> gs.Tensor:
        zero = self._table("zero", np.zeros((), dtype=np.float32))
        parts = []
        for op, scale in (("Max", scales.scale), ("Min", scales.negative)):
            part = self._node(op, [signs, zero], f"{name}_{op.lower()}", like.shape)
            factor = self._edit.constant(f"{name}_{op.lower()}_scale", scales.spread(scale, like))
            parts.append(self._node("Mul", [part, factor], f"{name}_{op.lower()}_scaled", like.shape))
        return self._node("Add", parts, f"{name}_decoded", like.shape)

    def _scaled(self, name: str, tensor: gs.Tensor, scales: Scales, like: Array) -> gs.Tensor:
        factor = self._edit.constant(f"{name}_scale", scales.spread(scales.scale, like))
        return self._node("Mul", [tensor, factor], f"{name}_decoded", like.shape)

    def _cast(self, name: str, tensor: gs.Tensor, to: int = TensorProto.FLOAT) -> gs.Tensor:
        dtype = np.dtype(np.int32) if to == TensorProto.INT32 else _FLOAT
        return self._node("Cast", [tensor], f"{name}_cast", tuple(tensor.shape), {"to": int(to)}, dtype)

    def _table(self, hint: str, values: Array) -> gs.Constant:
        if hint not in self._tables:
            self._tables[hint] = self._edit.constant(hint, values)
        return self._tables[hint]

    def _node(
        self,
        op: str,
        inputs: list[gs.Tensor],
        hint: str,
        shape: tuple[int, ...],
        attrs: dict[str, int] | None = None,
        dtype: np.dtype = _FLOAT,
    ) -> gs.Tensor:
        result = self._edit.fresh(hint, dtype, list(shape))
        self._edit.add(op, inputs, [result], attrs, name=result.name)
        return result


def _stored(per_row: Array, layout: Layout, shape: tuple[int, ...], values: tuple[int, ...]) -> Array:
    """Numbers of the rows in the shape that DequantizeLinear wants."""
    if layout.axis is None or not layout.block:
        return per_row.reshape(shape)
    first = (shape[layout.axis], *(size for i, size in enumerate(values) if i != layout.axis))
    return np.moveaxis(per_row.reshape(first), 0, layout.axis)


def _pays(code: Array, axis: int, rows: int, bits: int) -> bool:
    """Whether to store so many rows, one of zeros and the place of each takes less than to store all of them."""
    count = code.shape[axis]
    return bool((count - rows - 1) * (code.size // count) * bits > 32 * count)


def _with_zero_row(codes: Array, axis: int) -> Array:
    shape = [1 if i == axis else size for i, size in enumerate(codes.shape)]
    return np.concatenate([codes, np.zeros(shape, dtype=codes.dtype)], axis=axis)
