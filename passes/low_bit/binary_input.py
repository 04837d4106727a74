"""XNOR-Net's binary inputs: the sign of what a layer reads, and the scale that its magnitude leaves at each place."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.passes.low_bit.layers import Layer

_AXES_ARE_INPUT = 18


def obstacle(layer: Layer) -> str | None:
    """Why a layer's inputs cannot be binary; None where they can."""
    op = edit.op(layer.node)
    if op == "ConvTranspose":
        return "XNOR-Net has no scale for the inputs of a transposed convolution"
    if op == "Conv":
        return None if edit.attr(layer.node, "group", 1) == 1 else "XNOR-Net is for convolutions without groups"
    return None if layer.is_product else "XNOR-Net is for products of a matrix with a matrix of weights"


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
        mean = _averaged(e, layer, mean, f"{x.name}_scale")
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


def _averaged(e: edit.Edit, layer: Layer, mean: gs.Tensor, hint: str) -> gs.Tensor:
    """The mean under the window of each output; as a convolution where AveragePool has no such window."""
    node, window, y = layer.node, list(layer.weight.shape[2:]), layer.node.outputs[0]
    kept = ("strides", "pads", "auto_pad", "dilations")
    attrs: dict[str, Any] = {name: node.attrs[name] for name in kept if name in node.attrs}
    attrs["kernel_shape"] = window
    shape = None if y.shape is None else [1 if i == 1 else n for i, n in enumerate(y.shape)]
    pads = edit.attr(node, "pads", [0])
    strides = edit.attr(node, "strides", [1] * len(window))
    steps_over = any(stride > size for stride, size in zip(strides, window, strict=True))
    dilated = any(step != 1 for step in edit.attr(node, "dilations", []))
    if dilated or steps_over or any(pad >= size for pad, size in zip(pads, 2 * window, strict=False)):
        share = np.full((1, 1, *window), 1 / prod(window), dtype=np.float32)
        return _add(e, "Conv", [mean, e.constant(f"{hint}_window", share)], hint, shape, attrs)
    attrs.pop("dilations", None)
    return _add(e, "AveragePool", [mean], hint, shape, attrs | {"count_include_pad": 1})


def _add(
    e: edit.Edit, op: str, inputs: list[gs.Tensor], hint: str, shape: Any, attrs: dict[str, Any] | None = None
) -> gs.Tensor:
    result = e.fresh(hint, np.dtype(np.float32), shape)
    e.add(op, inputs, [result], attrs, name=result.name)
    return result
