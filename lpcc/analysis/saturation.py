"""Where int8 products saturate on x86 without VNNI.

There an unsigned activation and a signed weight are multiplied in pairs that are added in 16 bits (the instruction
VPMADDUBSW): ``x0 w0 + x1 w1`` is cut to -32768..32767, before the sums go on in 32 bits. With activations up to 255
that needs two neighbouring weights of one sign whose magnitudes add up to more than 128; weights of 7 bits cannot,
nor can those of fewer. onnxruntime's kernels for convolutions and matrix products do so; those for depthwise
convolutions widen both factors first. Its pairs are neighbours in the order kernel position, input channel of the
group: the order in which it lays out an image for a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcc import edit
from lpcc.analysis.quantized import QuantizedLayer

Array = np.ndarray[Any, Any]

LOWEST, HIGHEST = -(2**15), 2**15 - 1
_ACTIVATION = 255


@dataclass(frozen=True)
class Pairs:
    """The pairs of weights of a layer whose products may leave 16 bits.

    `outputs` (P,) are the output channels; `channels` (P, 2) input channels of the whole layer, `positions` (P, 2)
    kernel positions, row by row, and `weights` (P, 2) the integers. `all` is how many pairs an output position has,
    over all channels.
    """

    outputs: Array
    channels: Array
    positions: Array
    weights: Array
    all: int

    def __len__(self) -> int:
        return len(self.outputs)


def risky_pairs(layer: QuantizedLayer) -> Pairs | None:
    """The pairs that may saturate; None for a layer that a kernel without such sums computes."""
    rows = _rows(layer)
    if rows is None or layer.weights.integers.dtype != np.int8:
        return None
    weights, channels, positions = rows
    if weights.shape[1] % 2:  # the last product is alone, and fits
        weights, channels, positions = (np.pad(a, ((0, 0), (0, 1))) for a in (weights, channels, positions))
    outputs, depth = weights.shape
    wide = weights.astype(np.int64).reshape(outputs, depth // 2, 2)
    highest = _ACTIVATION * np.maximum(wide, 0).sum(axis=2)
    lowest = _ACTIVATION * np.minimum(wide, 0).sum(axis=2)
    output, pair = np.nonzero((highest > HIGHEST) | (lowest < LOWEST))
    taken = 2 * pair[:, None] + np.arange(2)
    return Pairs(
        outputs=output,
        channels=channels[output[:, None], taken],
        positions=positions[output[:, None], taken],
        weights=weights[output[:, None], taken].astype(np.int32),
        all=outputs * (depth // 2),
    )


def _rows(layer: QuantizedLayer) -> tuple[Array, Array, Array] | None:
    """Weights (outputs, depth) as they are multiplied in order, with the input channel and position of each."""
    integers, op = layer.weights.integers, edit.op(layer.node)
    if op in ("Gemm", "MatMul") and integers.ndim == 2:
        rows = integers if layer.channel_axis == 0 else integers.T
        channels = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        return rows, channels, np.zeros_like(channels)
    if op != "Conv" or integers.ndim < 3:
        return None
    outputs, depth = integers.shape[:2]
    groups = int(edit.attr(layer.node, "group", 1))
    if depth == 1 and outputs == groups:
        return None  # depthwise
    taps = int(np.prod(integers.shape[2:]))
    rows = np.moveaxis(integers.reshape(outputs, depth, taps), 1, 2).reshape(outputs, taps * depth)
    first = np.arange(outputs) // (outputs // groups) * depth
    channels = first[:, None] + np.tile(np.arange(depth), taps)
    positions = np.broadcast_to(np.repeat(np.arange(taps), depth), rows.shape)
    return rows, channels, positions
