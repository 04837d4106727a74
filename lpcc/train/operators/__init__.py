"""The operators of ONNX in torch.

Each family is a module with a table from operator to lowering: `STANDARD` for ONNX's own domain, `MICROSOFT` for
onnxruntime's. A lowering reads the attributes of one node, once, and returns the function of tensors that runs it.
"""

from __future__ import annotations

from collections.abc import Mapping

from lpcc.train.operators import (
    activations,
    arithmetic,
    attention,
    comparison,
    convolution,
    criteria,
    fused,
    gathering,
    layout,
    normalization,
    pooling,
    products,
    quantised,
    randomness,
    recurrent,
    reductions,
    resizing,
    sampling,
    selection,
    sequences,
    shapes,
)
from lpcc.train.operators.call import Call, Kernel, Lowering, Mode, Unsupported

__all__ = ["MICROSOFT", "OLDEST", "OPERATORS", "STANDARD", "Call", "Kernel", "Lowering", "Mode", "Unsupported", "lower"]

STANDARD = (
    activations,
    arithmetic,
    attention,
    comparison,
    convolution,
    criteria,
    gathering,
    layout,
    normalization,
    pooling,
    products,
    quantised,
    randomness,
    recurrent,
    reductions,
    resizing,
    sampling,
    selection,
    sequences,
    shapes,
)
MICROSOFT = (activations, fused, normalization, products, quantised)

OPERATORS: Mapping[tuple[str, str], Lowering] = {
    **{("", op): lowering for module in STANDARD for op, lowering in module.STANDARD.items()},
    **{("com.microsoft", op): lowering for module in MICROSOFT for op, lowering in module.MICROSOFT.items()},
}
"""The lowering of each operator, by domain ("" is the standard one) and name."""

OLDEST = 7


def lower(call: Call) -> Kernel:
    """The function that runs a node. Raises Unsupported where there is none."""
    lowering = OPERATORS.get((call.domain, call.op))
    if lowering is None:
        raise Unsupported("the operator is not known")
    if call.domain == "" and call.opset < OLDEST:
        raise Unsupported(f"opset {call.opset} is older than {OLDEST}")
    return lowering(call)
