"""Whether channels, the second dimension of a tensor, are still what they were behind an operator."""

from __future__ import annotations

from math import prod
from typing import Final

import onnx_graphsurgeon as gs

from lpcc import edit

_POOLS: Final = frozenset({"AveragePool", "GlobalAveragePool"})
_SAME: Final = frozenset({"Dropout", "Identity"})
_SHAPES: Final = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def keeps_channel_means(node: gs.Node) -> bool:
    """Whether channel i of the result of `node` is channel i of its first input, or averages of it.

    What changes the shape, or reduces it, counts only where both shapes tell: the channels are as many, and each has as
    many values behind it. (1, 16, 4, 4) as (16, 16) has channels of other numbers, though as many.
    """
    op = edit.op(node)
    if op in _SAME or op in _POOLS:
        return True
    if op == "ReduceMean":
        return _averages_within_channels(node)
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if op not in _SHAPES or before is None or after is None or min(len(before), len(after)) < 2:
        return False
    if not isinstance(before[1], int) or before[1] != after[1]:
        return False
    behind, now = list(before[2:]), list(after[2:])
    if all(isinstance(size, int) for size in (*behind, *now)):
        return bool(prod(behind) == prod(now))
    return behind == now and None not in now


def _averages_within_channels(node: gs.Node) -> bool:
    """Whether a ReduceMean leaves the first two dimensions alone."""
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    given = edit.inp(node, 1)
    axes = edit.attr(node, "axes", None) if given is None else edit.const(given)
    if axes is None:  # all of them, or unknown
        return False
    if rank is None:
        return all(int(axis) >= 2 for axis in axes)
    return all(int(axis) % rank >= 2 for axis in axes)
