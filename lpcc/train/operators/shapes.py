"""Shapes as tensors, constants, and casts. What holds a shape lies on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always

_TYPES: Mapping[int, Tensor] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
}
_NAMES = {8: "string", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4"}
_NAMES |= {22: "int4", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2"}


def torch_type(onnx_type: int) -> Tensor:
    """The torch type of an ONNX element type. Raises Unsupported where torch has none that it can compute with."""
    try:
        return _TYPES[onnx_type]
    except KeyError:
        raise Unsupported(f"torch does not compute with type {_NAMES.get(onnx_type, onnx_type)}") from None


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor with a copy of an array's values, on the CPU."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:
        raise Unsupported(f"torch does not compute with type {array.dtype}") from None


def constant(call: Call) -> Kernel:
    """A value that the node holds."""
    array = call.array("value")
    if array is None:
        array = _listed(call)
    value = tensor_of(array)
    return lambda: value


def _listed(call: Call) -> np.ndarray:
    if call.attrs.get("value_float") is not None:
        return np.array(call.attrs["value_float"], np.float32)
    if call.attrs.get("value_int") is not None:
        return np.array(call.attrs["value_int"], np.int64)
    if call.attrs.get("value_floats") is not None:
        return np.array(call.attrs["value_floats"], np.float32)
    if call.attrs.get("value_ints") is not None:
        return np.array(call.attrs["value_ints"], np.int64)
    raise Unsupported("a constant that is neither a dense tensor nor numbers")


def shape(call: Call) -> Kernel:
    """The sizes of the axes, of those from `start` to `end`."""
    start, end = call.integer("start", 0), call.attrs.get("end")
    if not start and end is None:
        return lambda x: torch.tensor(x.shape, dtype=torch.int64)
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def size(x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64)


def constant_of_shape(call: Call) -> Kernel:
    """A tensor of the given shape, filled with one value (the float 0 where not given)."""
    array = call.array("value")
    value = torch.zeros(1) if array is None else tensor_of(array)
    return lambda sizes: value.to(sizes.device).reshape(()).expand(sizes.tolist()).clone()


def range_(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """start, start + delta, ..., before limit."""
    count = -((start.to(torch.float64) - limit) // delta)
    steps = torch.arange(max(int(count.item()), 0), device=start.device)
    return (start + steps * delta).to(start.dtype)


def cast(call: Call) -> Kernel:
    """The values in another type: to integers cut towards zero, to bool whether not zero."""
    to = torch_type(call.integer("to", 1))
    if to.is_complex:
        raise Unsupported("casts to complex numbers")
    return lambda x: x.to(to)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """The values in the type of another tensor."""
    return x.to(like.dtype)


def bit_cast(call: Call) -> Kernel:
    """The bits as another type of the same width."""
    to = torch_type(call.integer("to", 1))
    return lambda x: x.view(to)


def eye_like(call: Call) -> Kernel:
    """Ones on diagonal `k`, else zeros, in the shape of x."""
    k, to = call.integer("k", 0), call.attrs.get("dtype")
    dtype = None if to is None else torch_type(int(to))

    def kernel(x: Tensor) -> Tensor:
        rows, columns = x.shape
        places = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device).unsqueeze(1)
        return (places == k).to(dtype or x.dtype)

    return kernel


def non_zero(x: Tensor) -> Tensor:
    """The places of the elements that are not zero: one row for each axis."""
    return (x.reshape(1) if not x.dim() else x).nonzero().t()[: max(x.dim(), 0)].contiguous()


STANDARD: Mapping[str, Lowering] = {
    "BitCast": bit_cast,
    "Cast": cast,
    "CastLike": always(cast_like),
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "NonZero": always(non_zero),
    "Range": always(range_),
    "Shape": shape,
    "Size": always(size),
}
