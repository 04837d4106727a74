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

from lpcc import edit
from lpcc.analysis.decoding import makers, unscaled
from lpcc.analysis.macs import CONVS, PRODUCTS, weights

Shape = Literal["dense", "powers", "ternary", "binary"]

_SAMPLE = 1 << 16
_MOST_SHARED = 256
_FEW = 4  # weights of a channel that may have two magnitudes by chance


@dataclass(frozen=True)
class WeightForm:
    """Form of one layer's weights.

    `count` values, of which a share `density` is not zero. `distinct`: different values other than zero, at most 257
    (more are not told apart). `entropy`: bits per value of an ideal code. `shape`: ``binary`` are +-a in each output
    channel, ``ternary`` +a, -b and zeros, ``powers`` sums of `terms` powers of two with signs, ``dense`` all others.
    `mean_terms` is the mean over the channels of the most that any weight of the channel needs.
    """

    count: int
    density: float
    distinct: int
    entropy: float
    shape: Shape
    terms: int = 0
    mean_terms: float = 0.0

    @property
    def bits(self) -> int:
        """Bits that tell the different values of a channel apart; 32 where there are more than 256 in all."""
        if self.shape in ("binary", "ternary"):
            return 1 if self.shape == "binary" else 2
        levels = self.distinct + (self.density < 1.0)
        return max(1, (levels - 1).bit_length()) if self.distinct <= _MOST_SHARED else 32


def weight_form(nodes: Iterable[gs.Node]) -> WeightForm | None:
    """Form of the weights that some nodes, as those of a kernel, read; None where they have no weights.

    The largest constant of two or more axes counts; its first axis is taken as the output channels. Weights that are
    computed from constants, as small integers are, count as what multiplies the inputs: a scale of each channel that
    comes last belongs to the result. The values are read here, once for each call; a network of 25 million weights
    takes about a second.
    """
    nodes = list(nodes)
    for node in nodes:
        place = CONVS.get(edit.op(node), PRODUCTS.get(edit.op(node)))
        tensor = None if place is None else edit.inp(node, place)
        values = unscaled(tensor) if tensor is not None and makers(tensor) is not None else None
        if values is not None and values.ndim > 1:
            return form_of(values if values.dtype.kind in "fiu" else values.astype(np.float32))
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
    by_channel = [_terms(row) for row in values.reshape(len(values), -1)] if shape == "powers" else [0]
    return WeightForm(
        count=flat.size,
        density=density,
        distinct=min(int(np.count_nonzero(distinct)), _MOST_SHARED + 1),
        entropy=float(-(share * np.log2(share)).sum()) if flat.size else 0.0,
        shape=shape,
        terms=terms,
        mean_terms=float(np.mean(by_channel)),
    )


def _shape(values: NDArray[np.generic], sample: NDArray[np.generic], density: float) -> tuple[Shape, int]:
    if density == 0.0:
        return "dense", 0
    signs = _signs(values, density)
    if signs is not None:
        return signs, 0
    terms = _terms(sample)
    if terms <= 2:
        terms = _terms(values.reshape(-1))
    return ("powers", terms) if terms <= 2 else ("dense", 0)


def _signs(values: NDArray[np.generic], density: float) -> Shape | None:
    """Whether all positive weights of a channel are equal, and all negative ones; few weights alone say nothing."""
    rows = values.reshape(len(values), -1).astype(np.float32)
    top, bottom = (np.maximum(ends, 0)[:, None] for ends in (rows.max(axis=1), -rows.min(axis=1)))
    near = 1 - 1e-6
    if rows.shape[1] < 2 or not np.all((rows == 0) | (rows >= top * near) & (top > 0) | (rows <= -bottom * near)):
        return None
    alike = (top == 0) | (bottom == 0) | (np.abs(top - bottom) <= 1e-6 * top)
    if not alike.all():
        return "ternary" if rows.shape[1] >= _FEW else None
    return "binary" if density == 1.0 else "ternary"


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
