"""Shapes as tensors, constants, and casts. What holds a shape lies on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper
import torch

from lpcc.train import tensors
from lpcc.train.operators.arithmetic import wrapped
from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always


def torch_type(onnx_type: int) -> Tensor:
    """The torch type that holds an ONNX element type. Raises Unsupported where torch cannot compute with it.

    Integers of at most 16 bits are held as float32, unsigned ones of more as int64.
    """
    return tensor_of(np.empty(0, _numpy_type(onnx_type))).dtype


def _numpy_type(onnx_type: int) -> np.dtype[Any]:
    return _computable(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type)))


def _computable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type itself. Raises Unsupported for strings, complex numbers and reals of a byte or less."""
    if dtype.kind in "cOSUT" or (dtype.name.startswith("float") and dtype.itemsize == 1):
        raise Unsupported(f"torch does not compute with type {dtype}")
    return dtype


def tensor_of(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor with a copy of an array's values, on the CPU. Raises Unsupported where torch has no such type."""
    try:
        return tensors.tensor_of(array)
    except TypeError:
        raise Unsupported(f"torch does not compute with type {array.dtype}") from None


def constant(call: Call) -> Kernel:
    """A value that the node holds."""
    array = call.array("value")
    if array is None:
        array = _listed(call)
    value = tensor_of(array)
    return lambda: value


def _listed(call: Call) -> np.ndarray[Any, Any]:
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
    """The values in another type: to integers cut towards zero, to bool whether not zero.

    Integers of at most 16 bits wrap round. They are held as reals, and the gradient passes straight through.
    """
    return _cast_to(_numpy_type(call.integer("to", 1)))


def _cast_to(dtype: np.dtype[Any]) -> Kernel:
    to = tensor_of(np.empty(0, dtype)).dtype
    if not tensors.is_narrow(dtype):
        return lambda x: x.to(to)

    def kernel(x: Tensor) -> Tensor:
        found = wrapped(x.detach().to(torch.float64).trunc(), dtype).to(to)
        return found + (x - x.detach()) if x.requires_grad else found

    return kernel


def cast_like(call: Call) -> Kernel:
    """The values in the type of another tensor."""
    known = call.types[1] if len(call.types) > 1 else None
    if known is not None:
        kernel = _cast_to(_computable(np.dtype(known)))
        return lambda x, _: kernel(x)
    return lambda x, like: x.to(like.dtype)


def bit_cast(call: Call) -> Kernel:
    """The bits as another type of the same width."""
    dtype, known = _numpy_type(call.integer("to", 1)), call.types[0] if call.types else None
    if any(tensors.is_narrow(each) or each == np.uint32 for each in (dtype, known) if each is not None):
        raise Unsupported("the bits of integers that are held in another type")
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
    "CastLike": cast_like,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "NonZero": always(non_zero),
    "Range": always(range_),
    "Shape": shape,
    "Size": always(size),
}
