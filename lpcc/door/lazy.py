"""Constants whose data stays in its protobuf message until somebody reads the values; number formats."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from lpcc.errors import ModelError

_MOST_DENSE = 2**31  # elements


@cache
def numpy_dtype(elem_type: int) -> np.dtype[Any] | None:
    """NumPy (or ml_dtypes) type of an ONNX element type; strings are objects; None where ONNX gives no type.

    Raises:
        ModelError: ONNX has no such element type.
    """
    if elem_type == TensorProto.UNDEFINED:
        return None
    if elem_type not in TensorProto.DataType.values():
        raise ModelError(f"unknown data type {elem_type}")
    return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))


def elem_type(dtype: Any) -> int:
    """ONNX element type of a NumPy type, of an ml_dtypes type, or of an ONNX element type itself."""
    if isinstance(dtype, int):
        return dtype
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def copy_fields(source: Any, target: Any, skip: set[str]) -> None:
    """Copy all fields that are set, also those that later versions of ONNX add, but not those in `skip`."""
    for field, value in source.ListFields():
        if field.name in skip:
            continue
        if isinstance(value, (int, float, str, bytes)):
            setattr(target, field.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            getattr(target, field.name).extend(value)


class Lazy(LazyValues):  # type: ignore[misc]
    """Values of a dense tensor. Written back byte for byte if they were never read."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = numpy_dtype(tensor.data_type)
        self.nbytes = math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 0)

    def load(self) -> np.ndarray:
        """Values as an array of this shape and type. Not writable: weights are shared, a pass makes new ones."""
        array = numpy_helper.to_array(self.tensor)
        array.flags.writeable = False
        return array


class Sparse(SparseValues):  # type: ignore[misc]
    """Values of a sparse tensor in coordinate form. Written back as they came if they were never read."""

    def __init__(self, tensor: onnx.SparseTensorProto) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = numpy_dtype(tensor.values.data_type)
        self.nbytes = math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 0)

    def load(self) -> np.ndarray:
        """Values as a dense array.

        Raises:
            ModelError: the shape claims more than any real weight has: some bytes can claim terabytes.
        """
        if math.prod(self.shape) > _MOST_DENSE:
            name = self.tensor.values.name
            raise ModelError(f"sparse tensor `{name}` of shape {self.shape} is too large to be made dense")
        dense = np.zeros(self.shape, dtype=self.dtype)
        indices = numpy_helper.to_array(self.tensor.indices)
        values = numpy_helper.to_array(self.tensor.values)
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
        return dense
