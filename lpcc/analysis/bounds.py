"""What a node says of the range of its result."""

from __future__ import annotations

from math import inf, isnan
from typing import Final

import onnx_graphsurgeon as gs

from lpcc import edit

_FROM_ZERO: Final = frozenset(("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Softmax", "Exp"))


def clip_bounds(clip: gs.Node) -> tuple[float | None, float | None]:
    """Bounds of a Clip of any opset, infinite where it has none; None where one is not constant, or is NaN.

    Where the lower one is above the upper one, all results are the upper one.
    """
    sides: list[float | None] = []
    for index, (name, default) in enumerate((("min", -inf), ("max", inf)), start=1):
        given = edit.inp(clip, index)
        bound = float(edit.attr(clip, name, default)) if given is None else edit.scalar(given)
        sides.append(None if bound is None or isnan(bound) else bound)
    return sides[0], sides[1]


def limited(graph: gs.Graph) -> dict[str, tuple[float, float]]:
    """By name of a result of a Clip that takes a convolution's result alone: its two finite, constant bounds."""
    reader = edit.Edit(graph)
    found = {}
    for node in graph.nodes:
        before = reader.producer(node.inputs[0]) if edit.op(node) == "Clip" else None
        if before is None or edit.op(before) != "Conv" or reader.only_user(node.inputs[0]) is None:
            continue
        low, high = clip_bounds(node)
        if low is not None and high is not None and -inf < low < high < inf:
            found[str(node.outputs[0].name)] = (low, high)
    return found


def is_never_negative(node: gs.Node) -> bool:
    """Whether the first result of a node holds no negative number, whatever its inputs are; it may hold NaN."""
    kind = edit.op(node)
    if kind == "Clip":
        low, high = clip_bounds(node)
        return low is not None and high is not None and low >= 0 and high >= 0
    if kind == "Abs":  # the magnitude of the least integer does not fit its type
        dtype = node.outputs[0].dtype
        return dtype is not None and dtype.kind not in "iV"
    return kind in _FROM_ZERO
