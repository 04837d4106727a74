"""XNOR-Net's binary inputs: the sign of what a layer reads, and the scale that its magnitude leaves at each place."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.passes.low_bit.layers import Layer

_AXES_ARE_INPUT = 18
DILATED_OPSET = 19
"""The first opset whose AveragePool has dilations."""


def obstacle(layer: Layer) -> str | None:
    """Why a layer's inputs cannot be binary; None where they can."""
    op = edit.op(layer.node)
    if op == "ConvTranspose":
        return "XNOR-Net has no scale for the inputs of a transposed convolution"
    if op == "Conv":
        return None if edit.attr(layer.node, "group", 1) == 1 else "XNOR-Net is for convolutions without groups"
    return None if layer.is_product else "XNOR-Net is for products of a matrix with a matrix of weights"


def is_dilated(layer: Layer) -> bool:
    """Whether a convolution skips inputs."""
    return any(step != 1 for step in edit.attr(layer.node, "dilations", []))


def binarise(e: edit.Edit, layer: Layer, opset: int) -> None:
    """Let a layer read signs, and scale its result before the bias: ``(sign(x) * W) K + b``.

    ``K = |x|`` averaged over the channels and over the window of each output. Rastegari et al., XNOR-Net (2016),
    section 3.2. ONNX's Sign of zero is zero: behind a Relu the inputs are 0 and 1, not -1 and 1, and padding adds none.
    """
    node = layer.node
    x, y, bias = node.inputs[0], node.outputs[0], edit.const(edit.inp(node, 2))
    is_conv = edit.op(node) == "Conv"
    rank = len(layer.weight.shape)
    shape = None if x.shape is None else list(x.shape)
    sign = _add(e, "Sign", [x], f"{x.name}_sign", shape)
    size = _add(e, "Abs", [x], f"{x.name}_magnitude", shape)
    axis = 1 if is_conv else -1
    few = None if shape is None else [1 if i == axis % len(shape) else n for i, n in enumerate(shape)]
    if opset >= _AXES_ARE_INPUT:
        axes = e.constant(f"{x.name}_axes", np.array([axis], dtype=np.int64))
        mean = _add(e, "ReduceMean", [size, axes], f"{x.name}_mean", few)
    else:
        mean = _add(e, "ReduceMean", [size], f"{x.name}_mean", few, {"axes": [axis]})
    if is_conv and prod(layer.weight.shape[2:]) * prod(edit.attr(node, "strides", [1])) > 1:
        kept = ("strides", "pads", "auto_pad", "dilations")
        attrs: dict[str, Any] = {name: node.attrs[name] for name in kept if name in node.attrs}
        if not is_dilated(layer):
            attrs.pop("dilations", None)
        attrs |= {"kernel_shape": list(layer.weight.shape[2:]), "count_include_pad": 1}
        pooled = None if y.shape is None else [1 if i == 1 else n for i, n in enumerate(y.shape)]
        mean = _add(e, "AveragePool", [mean], f"{x.name}_scale", pooled, attrs)
    e.replace_input(node, 0, sign)
    bias_tensor = edit.inp(node, 2)
    if bias_tensor is not None:
        e.drop_inputs(node, 2)
    raw = e.fresh(f"{y.name}_unscaled", y.dtype, y.shape)
    e.replace_output(node, 0, raw)
    if bias_tensor is None:
        e.add("Mul", [raw, mean], [y], name=f"{y.name}_scaled")
        return
    scaled = _add(e, "Mul", [raw, mean], f"{y.name}_scaled", y.shape)
    if bias is not None and is_conv:
        bias_tensor = e.constant(bias_tensor.name, np.asarray(bias).reshape(-1, *[1] * (rank - 2)))
    e.add("Add", [scaled, bias_tensor], [y], name=f"{y.name}_biased")


def _add(
    e: edit.Edit, op: str, inputs: list[gs.Tensor], hint: str, shape: Any, attrs: dict[str, Any] | None = None
) -> gs.Tensor:
    result = e.fresh(hint, np.dtype(np.float32), shape)
    e.add(op, inputs, [result], attrs, name=result.name)
    return result
