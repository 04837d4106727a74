"""What most runtimes take into a kernel: chains of nodes, shared by the rules of several runtimes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.runtimes.base import Facts
from lpcc.analysis.shapes import Shapes

AFTER_CONV = frozenset(["Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"])
AFTER_GEMM = frozenset(
    ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu"]
)


def conv_chain(
    node: gs.Node, facts: Facts, activations: Iterable[str] = AFTER_CONV, *, residual: bool = False
) -> tuple[gs.Node, ...]:
    """A convolution, batch norm and constants per channel after it, a `residual` sum if any, one activation."""
    chain = affine_chain(node, facts)
    if residual and (after := facts.after(chain)) is not None and is_sum(after, facts):
        chain += (after,)
    return with_activation(chain, facts, activations)


def affine_chain(node: gs.Node, facts: Facts) -> tuple[gs.Node, ...]:
    """A convolution with constant weights and what scales and shifts its channels after it."""
    chain = [node]
    if facts.constant(node.inputs[1]):
        while (after := facts.after(chain)) is not None and is_affine(after, facts):
            chain.append(after)
    return tuple(chain)


def with_activation(
    chain: tuple[gs.Node, ...], facts: Facts, activations: Iterable[str] = AFTER_CONV
) -> tuple[gs.Node, ...]:
    """A chain and the activation after it, if that is one of these, with known bounds."""
    after = facts.after(chain)
    if after is None or edit.op(after) not in activations or not bounds_known(after, facts):
        return chain
    if edit.op(after) == "Relu" and "Clip" in activations:  # two clampings are one
        clip = facts.after([after])
        if clip is not None and edit.op(clip) == "Clip" and bounds_known(clip, facts):
            return (*chain, after, clip)
    return (*chain, after)


def gemm_chain(node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
    """A matrix product, the bias that is added to it and one activation; any other node by itself."""
    if op == "Gemm":
        return with_activation((node,), facts, AFTER_GEMM)
    if op == "MatMul" and len(facts.shapes.of(node.inputs[0]) or ()) == 2:
        after = facts.after([node])
        if after is not None and edit.op(after) == "Add" and any(facts.constant(t) for t in after.inputs):
            return with_activation((node, after), facts, AFTER_GEMM)
    return (node,)


def is_affine(node: gs.Node, facts: Facts) -> bool:
    """Whether a node after a convolution scales or shifts its channels by constants."""
    op = edit.op(node)
    if op == "BatchNormalization":
        return all(facts.constant(t) for t in node.inputs[1:]) and not edit.attr(node, "training_mode", 0)
    if op not in ("Mul", "Add"):
        return False
    constants = [t for t in node.inputs if facts.constant(t)]
    shape = facts.shapes.of(node.outputs[0])
    if len(constants) != 1 or shape is None or len(shape) < 3:
        return False
    mine = facts.shapes.of(constants[0])
    if op == "Mul" and mine is not None and all(dim == 1 for dim in mine):
        return True
    wanted = (shape[1], *[1] * (len(shape) - 2))
    return mine in (wanted, (1, *wanted))


def is_sum(node: gs.Node, facts: Facts) -> bool:
    """Whether a node adds two activations of the same shape."""
    if edit.op(node) != "Add" or len(node.inputs) != 2:
        return False
    return same_shape(node, facts.shapes) and not any(facts.constant(t) for t in node.inputs)


def same_shape(node: gs.Node, shapes: Shapes) -> bool:
    """Whether the inputs of a node all have one, known shape."""
    first = shapes.of(node.inputs[0])
    return first is not None and all(shapes.of(t) == first for t in node.inputs[1:])


def bounds_known(node: gs.Node, facts: Facts) -> bool:
    """Whether an activation is no Clip, or one with constant bounds."""
    return edit.op(node) != "Clip" or all(t.name == "" or facts.constant(t) for t in node.inputs[1:])


def pads_window(pad: gs.Node, after: gs.Node, facts: Facts) -> bool:
    """Whether a Pad adds zeros around images for a convolution or pool, which can do that by itself."""
    if edit.op(after) not in ("Conv", "MaxPool", "AveragePool") or edit.attr(pad, "mode", "constant") != "constant":
        return False
    given = edit.inp(pad, 1)
    pads = edit.attr(pad, "pads", None) if given is None else edit.const(given)
    value = (
        edit.attr(pad, "value", 0.0) if len(pad.inputs) < 3 or not pad.inputs[2].name else edit.scalar(pad.inputs[2])
    )
    if pads is None or value != 0 or len(pad.inputs) > 3 or edit.attr(after, "auto_pad", "NOTSET") != "NOTSET":
        return False
    half = len(pads) // 2
    image = [*pads[2:half], *pads[half + 2 :]]
    return all(size >= 0 for size in image) and sum(map(abs, pads)) == sum(image) and facts.after([pad]) is after
