"""Integer forms of operators that onnxruntime has no Q/DQ form of: the graph itself computes on the integers.

    Pad               pads with the integer of its value
    Relu, Clip        Clip of the integers, between those of its limits
    Max, Min          of integers with one scale
    HardSwish         x * h with h = clip(x, -3, 3) / 6 + 1/2

The integers of x start at -3, below which HardSwish is zero; clipped at that of 3 they are those of h as well, with a
sixth of the scale and the zero point at -3. So h costs a Clip of bytes and no error of its own, and the product is an
integer kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.formats.affine import Params, activation_params, quantize, symmetric_params
from lpcc.passes.quantize.operators import HARD_SWISH_LOW, activation_bounds


def anchored(params: Params) -> Params:
    """Parameters for about the same upper end, whose least integer stands for -3 exactly."""
    info = np.iinfo(params.dtype)
    levels = int(info.max) - int(info.min)
    high = max(params.high, 0.0)
    steps = int(np.clip(np.floor(levels * HARD_SWISH_LOW / (HARD_SWISH_LOW - high)), 1, levels))
    return Params(np.float32(-HARD_SWISH_LOW / steps), int(info.min) + steps, params.dtype)


def spell(editing: edit.Edit, node: gs.Node, tensor: gs.Tensor, params: Params) -> None:
    """Let a node that reads integers in place of `tensor` do on them what it does on numbers."""
    op = edit.op(node)
    if op == "Pad" and edit.attr(node, "mode", "constant") == "constant":
        value = edit.scalar(edit.inp(node, 2)) or 0.0
        integer = quantize(np.asarray(value), params)  # without one it would pad with integer 0
        editing.replace_input(node, 2, editing.constant(f"{tensor.name}_padding", integer))
    elif op in ("Relu", "Clip"):
        least, most = activation_bounds(node) or (-np.inf, np.inf)
        ends = [None if np.isinf(end) else quantize(np.asarray(end), params) for end in (least, most)]
        node.op = "Clip"
        for index, (end, name) in enumerate(zip(ends, ("least", "most"), strict=True), 1):
            if end is not None:
                editing.replace_input(node, index, editing.constant(f"{tensor.name}_{name}", end))
        if ends[1] is None:
            editing.drop_inputs(node, 2)


def hard_swish(
    editing: edit.Edit, node: gs.Node, number: gs.Tensor, integers: gs.Tensor, params: Params
) -> gs.Node | None:
    """Turn a HardSwish into a product of `number`, which is `integers` dequantised with `params`, and h.

    The Clip that is added, if one is needed, is returned.
    """
    name = node.outputs[0].name
    least = int(np.iinfo(params.dtype).min)
    upper = params.zero_point + (params.zero_point - least)  # the integer of 3
    clip = None
    if upper < int(np.iinfo(params.dtype).max):
        clipped = editing.fresh(f"{name}_clipped", integers.dtype, integers.shape)
        most = editing.constant(f"{name}_most", np.asarray(upper, dtype=params.dtype))
        clip = editing.add("Clip", [integers, gs.Variable.empty(), most], [clipped], name=clipped.name)
        integers = clipped
    scale = editing.constant(f"{name}_gate_scale", np.asarray(params.scale / np.float32(6), dtype=np.float32))
    zero = editing.constant(f"{name}_gate_zero_point", np.asarray(least, dtype=params.dtype))
    gate = editing.fresh(f"{name}_gate", number.dtype, number.shape)
    editing.add("DequantizeLinear", [integers, scale, zero], [gate], name=gate.name)
    node.op = "Mul"
    editing.replace_input(node, 0, number)
    editing.replace_input(node, 1, gate)
    return clip


def constant_operand(editing: edit.Edit, node: gs.Node, index: int, dtype: np.dtype) -> None:
    """Give a sum or product the integers of its constant operand, of the type of the other one."""
    constant = node.inputs[index]
    values = np.asarray(constant.values, dtype=np.float32)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    is_wide = dtype.itemsize == 2
    params = symmetric_params(max(-low, high), dtype) if is_wide else activation_params(low, high, dtype)
    inputs = [
        editing.constant(f"{constant.name}_quantized", quantize(values, params)),
        editing.constant(f"{constant.name}_scale", np.asarray(params.scale)),
        editing.constant(f"{constant.name}_zero_point", np.asarray(params.zero_point, dtype=dtype)),
    ]
    result = editing.fresh(f"{constant.name}_dequantized", np.dtype(np.float32), constant.shape)
    editing.add("DequantizeLinear", inputs, [result], name=result.name)
    editing.replace_input(node, index, result)
