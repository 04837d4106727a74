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
    fits = after is not None and edit.op(after) in activations and bounds_known(after, facts)
    return (*chain, after) if fits else chain


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
    constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
    shape = facts.shapes.of(node.outputs[0])
    if len(constants) != 1 or shape is None or len(shape) < 3:
        return False
    mine = tuple(constants[0].shape)
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
