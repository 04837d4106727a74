"""Arrays of a graph's constants as torch tensors, and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

Array = np.ndarray[Any, Any]
Tensor = Any

_BY_BITS: dict[str, tuple[type[np.generic], torch.dtype]] = {
    "bfloat16": (np.uint16, torch.bfloat16),
    "float8_e4m3fn": (np.uint8, torch.float8_e4m3fn),
    "float8_e4m3fnuz": (np.uint8, torch.float8_e4m3fnuz),
    "float8_e5m2": (np.uint8, torch.float8_e5m2),
    "float8_e5m2fnuz": (np.uint8, torch.float8_e5m2fnuz),
}
"""Types that NumPy and torch share no name of, with the integers that carry their bits across."""

_NARROW = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16))
"""Integers that quantised networks compute with: torch holds them as float32, so that gradients flow."""

_WIDER = {"uint32": np.int64, "uint64": np.int64}
"""Integers for which torch has no arithmetic, with the type that holds their values."""


def tensor_of(array: Any) -> Tensor:
    """A tensor with the values of an array, sharing nothing with it.

    Integers of at most 16 bits come as float32, unsigned ones of more as int64. Raises TypeError for strings and
    other types that torch has no number for.
    """
    values = np.array(array, order="C")
    name = values.dtype.name
    if name in _BY_BITS:
        bits, dtype = _BY_BITS[name]
        return torch.from_numpy(values.view(bits)).view(dtype)
    if name in _NARROW:
        return torch.from_numpy(values.astype(np.float32))
    return torch.from_numpy(values.astype(_WIDER[name]) if name in _WIDER else values)


def array_of(tensor: Tensor, dtype: Any) -> Array:
    """An array of `dtype`, a NumPy or ml_dtypes type, with the values of a tensor; shares nothing with it."""
    values = tensor.detach().cpu()
    if values.dtype == torch.bfloat16 or (values.dtype.itemsize == 1 and values.is_floating_point()):
        values = values.float()
    array = values.numpy()
    wanted = np.dtype(dtype)
    if array.dtype.kind == "f" and (wanted.kind in "iu" or is_narrow(wanted)):
        array = np.rint(array)
    return np.array(array).astype(wanted)


def is_narrow(dtype: Any) -> bool:
    """Whether a NumPy or ml_dtypes type is one of integers of at most 16 bits."""
    return np.dtype(dtype).name in _NARROW


def is_real(dtype: Any) -> bool:
    """Whether a NumPy or ml_dtypes type is a floating-point one of at least 16 bits: what can be trained."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == np.dtype(ml_dtypes.bfloat16)
