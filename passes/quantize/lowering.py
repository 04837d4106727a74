"""Operators without an integer kernel as others that have one, exactly, before anything is placed.

HardSigmoid of a Conv or Gemm     clip(a x + b, 0, 1): a and b go into its weights, and a Clip stays
PRelu                             LeakyRelu if all slopes are equal, else max(x, s x) for slopes s from 0 to 1
ReduceMean over height and width  GlobalAveragePool
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.pipeline import Changes

_CLIP_INPUTS = 11


def lower(graph: gs.Graph, runtime: str, changes: Changes) -> None:
    """Rewrite the main graph in place; every node keeps its name."""
    with edit.Edit(graph) as e:
        for node in e.nodes:
            op = edit.op(node)
            if op == "HardSigmoid" and graph.opset >= _CLIP_INPUTS:
                _hard_sigmoid(e, node, changes)
            elif runtime == "onnxruntime" and op == "PRelu":
                _prelu(e, node, changes)
            elif runtime == "onnxruntime" and op == "ReduceMean":
                _mean(e, node, changes)


def _hard_sigmoid(e: edit.Edit, node: gs.Node, changes: Changes) -> None:
    """``clip(a (w x + c) + b, 0, 1) = clip((a w) x + (a c + b), 0, 1)``."""
    maker = e.producer(node.inputs[0])
    if maker is None or edit.op(maker) not in ("Conv", "Gemm") or e.only_user(maker.outputs[0]) is None:
        return
    weight, old = edit.const(maker.inputs[1]), edit.inp(maker, 2)
    bias = edit.const(old)
    if weight is None or weight.dtype != np.float32 or (old is not None and bias is None) or not e.owns(maker):
        return
    if edit.op(maker) == "Gemm" and (edit.attr(maker, "alpha", 1.0), edit.attr(maker, "beta", 1.0)) != (1.0, 1.0):
        return
    a, b = np.float32(edit.attr(node, "alpha", 0.2)), np.float32(edit.attr(node, "beta", 0.5))
    last = weight.shape[0] if edit.op(maker) == "Conv" or edit.attr(maker, "transB", 0) else weight.shape[1]
    shift = np.zeros(last, np.float32) if bias is None else bias
    name = node.outputs[0].name
    e.replace_input(maker, 1, e.constant(f"{maker.inputs[1].name}_scaled", weight * a))
    e.replace_input(maker, 2, e.constant(f"{name}_shift", shift * a + b))
    node.op = "Clip"
    node.attrs.clear()
    e.replace_input(node, 1, e.constant(f"{name}_min", np.asarray(0, np.float32)))
    e.replace_input(node, 2, e.constant(f"{name}_max", np.asarray(1, np.float32)))
    changes.done(node, "HardSigmoid put into the weights before it, and Clip")


def _prelu(e: edit.Edit, node: gs.Node, changes: Changes) -> None:
    """``PRelu(x, s) = max(x, s x)`` where no slope is below 0 or above 1."""
    slope = edit.const(node.inputs[1])
    x = node.inputs[0]
    if slope is None or slope.dtype != np.float32 or slope.size == 0:
        return
    if (slope == slope.flat[0]).all():
        node.op = "LeakyRelu"
        node.attrs["alpha"] = float(slope.flat[0])
        e.drop_inputs(node, 1)
        changes.done(node, "PRelu with one slope becomes LeakyRelu")
        return
    if slope.min() < 0 or slope.max() > 1:
        changes.refuse(node, "onnxruntime has no integer kernel for PRelu with slopes below 0 or above 1")
        return
    scaled = e.fresh(f"{node.outputs[0].name}_sloped", x.dtype, x.shape)
    e.add("Mul", [x, node.inputs[1]], [scaled], name=scaled.name)
    node.op = "Max"
    e.replace_input(node, 1, scaled)
    changes.done(node, "PRelu becomes Max(x, slope * x)")


def _mean(e: edit.Edit, node: gs.Node, changes: Changes) -> None:
    axes = edit.const(edit.inp(node, 1)) if len(node.inputs) > 1 else edit.attr(node, "axes")
    rank = len(node.inputs[0].shape or ())
    if axes is None or rank != 4 or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return
    if not edit.attr(node, "keepdims", 1):
        return
    node.op = "GlobalAveragePool"
    node.attrs.clear()
    if len(node.inputs) > 1:
        e.drop_inputs(node, 1)
    changes.done(node, "ReduceMean over an image becomes GlobalAveragePool")
