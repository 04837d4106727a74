"""Whether a model can be quantised at all: its opset, and what is quantised in it already."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.quantized import LAYERS
from lpcc.pipeline import Changes

_OPSET = 13  # the first in which DequantizeLinear has an axis
_INTEGER = frozenset({"ConvInteger", "MatMulInteger", "QAttention", "QGemm", "DynamicQuantizeMatMul", "MatMulNBits"})
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_KINDS = {
    "QDQ": "QuantizeLinear and DequantizeLinear around its layers",
    "QOperator": "operators on integers, as QLinearConv",
    "dynamic": "operators on integers with scales found at run time, as ConvInteger",
}


def refusal(graph: gs.Graph) -> str | None:
    """Why a model as a whole is left alone; None where it is not."""
    reason = _quantised(graph)
    if reason is not None:
        return reason
    if graph.opset < _OPSET:
        return f"opset {graph.opset} is too old for int8 weights per channel: run `raise-opset` first"
    return None


def note_batch_norms(graph: gs.Graph, changes: Changes) -> None:
    """Report batch norms right behind convolutions: nothing fuses across them, so that their neighbours convert."""
    for node in graph.nodes:
        if edit.op(node) != "BatchNormalization":
            continue
        maker = node.inputs[0].inputs[0] if len(node.inputs[0].inputs) == 1 else None
        if maker is not None and edit.op(maker) in ("Conv", "ConvTranspose"):
            changes.refuse(node, "stands in float behind a convolution: run `fold-bn` (part of `exact`) first")


def _quantised(graph: gs.Graph) -> str | None:
    """Says in which form a model is quantised already, if it is, and whether some of its layers are not."""
    layers = quantised = 0
    kinds = []
    for node in graph.nodes:
        op = edit.op(node).rpartition("::")[2]
        is_integer = op.startswith("QLinear") or op in _INTEGER
        if is_integer:
            kinds.append("dynamic" if op in _INTEGER - {"QGemm"} else "QOperator")
            weighs = op in _INTEGER or op in ("QLinearConv", "QLinearMatMul")
            layers, quantised = layers + weighs, quantised + weighs
        elif op in _CONVERSIONS or op == "DynamicQuantizeLinear":
            kinds.append("QDQ")
        elif op in LAYERS and len(node.inputs) > 1:
            stored = any(_is_stored_in_integers(tensor) for tensor in node.inputs[:2])
            weighs = stored or any(isinstance(tensor, gs.Constant) for tensor in node.inputs[:2])
            layers, quantised = layers + weighs, quantised + stored
    if not kinds:
        return None
    kind = next(kind for kind in ("QOperator", "dynamic", "QDQ") if kind in kinds)
    how = f"{kind} form: {_KINDS[kind]}"
    if quantised < layers:
        return (
            f"the model is quantised in part already ({how}; {layers - quantised} of {layers} layers with weights are "
            "in float): it is passed through as it is; give the float model to quantise the rest"
        )
    return f"the model is quantised already ({how}): it is passed through as it is"


def _is_stored_in_integers(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a constant behind a DequantizeLinear, and a Cast or the like perhaps."""
    seen = False
    while len(tensor.inputs) == 1 and edit.op(tensor.inputs[0]) in ("Cast", "DequantizeLinear", "Reshape", "Transpose"):
        seen = seen or edit.op(tensor.inputs[0]) == "DequantizeLinear"
        tensor = tensor.inputs[0].inputs[0]
    return seen and isinstance(tensor, gs.Constant)
