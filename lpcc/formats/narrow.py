"""Integer weights of fewer than 8 bits, whose scales are those of least squared error.

With 16 levels or 4 the largest weight of a channel is a bad scale for the others: clipping a few of them costs less
than coarse steps cost all. The scale s of a channel is searched for the least ``sum (w - s * q)^2`` with
``q = clip(round(w / s), low, high)``: first on a grid of shares of the largest magnitude, then by turns for the best s
of given integers, ``s = <w, q> / <q, q>``, and the best integers of that s. Clipping for the least error: Banner et
al., Post-training 4-bit quantization of convolutional networks (2019); by turns: Li et al., Ternary weight networks
(2016).
"""

from __future__ import annotations

import numpy as np

from lpcc.formats.affine import Array, Weights, quantize_weights

_GRID = np.linspace(1.0, 0.15, 35)
_TURNS = 4
_INT32 = 2**31 - 1
_SMALLEST = float(np.finfo(np.float32).tiny) * 2**24


def limits(bits: int) -> tuple[int, int]:
    """Least and greatest integer of a weight in so many bits; 8 and more are symmetric, as integer kernels want it."""
    return (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if bits >= 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def narrow_weights(
    values: Array, axis: int | None, bits: int, bias: Array | None = None, input_scale: float = 1.0
) -> Weights:
    """Weights as integers of 2 to 7 bits in int8, a scale for each index of `axis` or one for all.

    Scales keep the bias within int32, as in `lpcc.formats.affine.quantize_weights`.
    """
    low, high = limits(bits)
    values = np.asarray(values, dtype=np.float32)
    start = quantize_weights(values, axis, high, bias, input_scale)
    rows = (values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0)).astype(np.float32)
    rows = rows.reshape(len(rows), -1)
    first = start.scales.astype(np.float64).reshape(-1)
    least = np.zeros(len(rows))
    if bias is not None:
        least = np.abs(np.asarray(bias, dtype=np.float64)).reshape(-1) / (input_scale * (_INT32 // 2))
        least = np.full(len(rows), least.max(initial=0.0)) if axis is None else least
    least = np.maximum(least, _SMALLEST)
    best, error = first, _error(rows, first, low, high)
    for share in _GRID[1:]:
        best, error = _better(rows, best, error, np.maximum(first * share, least), low, high)
    for _ in range(_TURNS):
        integers = _round(rows, best, low, high)
        energy = np.square(integers).sum(axis=1)
        fitted = (rows * integers).sum(axis=1) / np.where(energy > 0, energy, 1.0)
        candidate = np.where((energy > 0) & (fitted > 0), np.maximum(fitted, least), best)
        best, error = _better(rows, best, error, candidate, low, high)
    scales = best.astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)] if axis is not None else []
    spread = scales.reshape(shape)
    rounded = np.clip(np.rint(values / spread), low, high).astype(np.int8)
    return Weights(rounded, scales.reshape(start.scales.shape), axis)


def _round(rows: Array, scales: Array, low: int, high: int) -> Array:
    result: Array = np.clip(np.rint(rows / scales[:, None].astype(np.float32)), low, high)
    return result


def _error(rows: Array, scales: Array, low: int, high: int) -> Array:
    kept = _round(rows, scales, low, high) * scales[:, None].astype(np.float32)
    result: Array = np.square(rows - kept).sum(axis=1, dtype=np.float64)
    return result


def _better(rows: Array, best: Array, error: Array, tried: Array, low: int, high: int) -> tuple[Array, Array]:
    """Of two scales for each row the one of less error; the first wins a tie."""
    found = _error(rows, tried, low, high)
    return np.where(found < error, tried, best), np.minimum(found, error)
