"""What of a Q/DQ graph becomes the result of an integer kernel."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds
from lpcc.analysis.quantized import scale_and_zero
from lpcc.formats.affine import Params

EIGHT_BITS = {np.dtype(np.int8): 3, np.dtype(np.uint8): 2}
"""Number formats of activations, and what ONNX calls them in a Cast."""
_ACTIVATIONS = ("Relu", "Clip")


def quantized_result(editing: edit.Edit, node: gs.Node) -> tuple[gs.Node, Params, gs.Node | None] | None:
    """The QuantizeLinear that alone reads a node's result, what it makes, and the activation between.

    None where there is no such QuantizeLinear, where it does not make 8 bits, and where clipping to them does not
    make the activation superfluous: then there is no integer kernel.
    """
    after = editing.only_user(node.outputs[0])
    tail = None
    if after is not None and edit.op(after) in _ACTIVATIONS and after.inputs[0] is node.outputs[0]:
        tail, after = after, editing.only_user(after.outputs[0])
    if after is None or edit.op(after) != "QuantizeLinear":
        return None
    params = scale_and_zero(after)
    if params is None or params.dtype not in EIGHT_BITS or (tail is not None and not _superfluous(tail, params)):
        return None
    return after, params, tail


def _superfluous(tail: gs.Node, params: Params) -> bool:
    """Whether clipping to the integers clips to the limits of an activation already."""
    low, high = clip_bounds(tail) if edit.op(tail) == "Clip" else (0.0, math.inf)
    if low is None or high is None:
        return False
    return params.low >= low and params.high <= high
