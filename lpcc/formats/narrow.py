"""Integer weights of fewer than 8 bits for integer kernels, whose scales are those of least error.

With 16 levels or 4 the largest weight of a channel is a bad scale for the others: see `lpcc.formats.search`.
"""

from __future__ import annotations

import numpy as np

from lpcc.formats.affine import Array, Weights, least_scales, quantize_weights
from lpcc.formats.format import Layout
from lpcc.formats.search import WITH_BIAS, least_error

_GRID = np.linspace(1.0, 0.15, 35)
_TURNS = 4


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
    layout = Layout(axis)
    rows = layout.rows(values)
    start = quantize_weights(values, axis, high, bias, input_scale).scales
    first = start.astype(np.float64).reshape(-1)
    floor = np.broadcast_to(least_scales(axis, bias, input_scale), first.shape)
    scales = least_error(
        rows,
        (first * share for share in _GRID),
        lambda units: np.clip(np.rint(units), low, high),
        _TURNS,
        WITH_BIAS,
        floor,
    ).astype(np.float32)
    integers = np.clip(np.rint(values / layout.spread(scales, values.shape)), low, high).astype(np.int8)
    return Weights(integers, scales.reshape(start.shape), axis)
