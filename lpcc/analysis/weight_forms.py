"""What the weights of a layer look like to hardware: sparse, shared, binary, ternary, or sums of powers of two.

Hardware for such weights needs no multiplier, or skips zeros; it is worth what the values in the graph really are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lpcc.analysis.macs import weights

Shape = Literal["dense", "powers", "ternary", "binary"]

_SAMPLE = 1 << 16
_MOST_SHARED = 256


@dataclass(frozen=True)
class WeightForm:
    """Form of one layer's weights.

    `count` values, of which a share `density` is not zero. `distinct`: different values other than zero, at most 257
    (more are not told apart). `entropy`: bits per value of an ideal code. `shape`: ``binary`` are +-a in each output
    channel, ``ternary`` the same and zeros, ``powers`` sums of `terms` powers of two with signs, ``dense`` all others.
    """

    count: int
    density: float
    distinct: int
    entropy: float
    shape: Shape
    terms: int = 0


def weight_form(nodes: Iterable[gs.Node]) -> WeightForm | None:
    """Form of the weights that some nodes, as those of a kernel, read; None where they have no weights.

    The largest constant of two or more axes counts; its first axis is taken as the output channels. The values are
    read here, once for each call; a network of 25 million weights takes about a second.
    """
    found = {id(t): t for node in nodes for t in weights(node) if len(t.shape) > 1}
    if not found:
        return None
    largest = max(found.values(), key=lambda t: prod(t.shape))
    values = np.asarray(largest.values)
    if values.dtype.kind not in "fiu":
        values = values.astype(np.float32)
    return form_of(values)


def form_of(values: NDArray[np.generic]) -> WeightForm:
    """Form of an array of weights, output channels first."""
    flat = values.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)]
    distinct, counts = np.unique(sample, return_counts=True)
    if len(distinct) <= _MOST_SHARED < flat.size:
        distinct, counts = np.unique(flat, return_counts=True)
    share = counts / counts.sum()
    density = float(np.count_nonzero(flat)) / max(flat.size, 1)
    shape, terms = _shape(values, sample, density)
    return WeightForm(
        count=flat.size,
        density=density,
        distinct=min(int(np.count_nonzero(distinct)), _MOST_SHARED + 1),
        entropy=float(-(share * np.log2(share)).sum()) if flat.size else 0.0,
        shape=shape,
        terms=terms,
    )


def _shape(values: NDArray[np.generic], sample: NDArray[np.generic], density: float) -> tuple[Shape, int]:
    if density == 0.0:
        return "dense", 0
    if _one_magnitude(values):
        return ("binary" if density == 1.0 else "ternary"), 0
    terms = _terms(sample)
    if terms <= 2:
        terms = _terms(values.reshape(-1))
    return ("powers", terms) if terms <= 2 else ("dense", 0)


def _one_magnitude(values: NDArray[np.generic]) -> bool:
    """Whether all weights of a channel that are not zero have the same magnitude; one weight alone says nothing."""
    rows = np.abs(values.reshape(len(values), -1).astype(np.float32))
    if rows.shape[1] < 2:
        return False
    top = rows.max(axis=1, keepdims=True)
    return bool(np.all((rows == 0) | (rows >= top * (1 - 1e-6))))


def _terms(flat: NDArray[np.generic]) -> int:
    """The most powers of two, added or subtracted, that any of the values needs.

    The non-adjacent form of x has a digit wherever x and 3x differ in binary, and no other form has fewer.
    """
    mantissa, _ = np.frexp(flat.astype(np.float64))
    whole = np.abs(np.round(mantissa * (1 << 24))).astype(np.int64)
    digits = whole ^ (3 * whole)
    needed = np.zeros(flat.size, dtype=np.int64)
    for byte in range(4):
        needed += _BITS[(digits >> (8 * byte)) & 255]
    return int(needed.max(initial=0))


_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.int64)
