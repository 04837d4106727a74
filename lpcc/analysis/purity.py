"""Which nodes are plain functions of their inputs: only those may be evaluated early, merged or dropped."""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

from lpcc import edit

RANDOM: Final = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
"""Operators that give other values at every run. Dropout in training mode is random too."""


def is_pure(node: gs.Node, opset: int) -> bool:
    """Whether equal inputs always give equal outputs, with no other effect.

    False for random operators, for Dropout and batch norm in training mode, for operators of other domains, of which
    nothing is known, and for control flow that holds any of these.
    """
    kind = edit.op(node)
    if "::" in kind or kind in RANDOM or trains(node, opset):
        return False
    return all(is_pure(child, opset) for body in edit.subgraphs(node) for child in body.nodes)


def is_foreign(node: gs.Node) -> bool:
    """Whether the node, or one in its subgraphs, belongs to a domain of which nothing is known."""
    return "::" in edit.op(node) or any(is_foreign(child) for body in edit.subgraphs(node) for child in body.nodes)


def trains(node: gs.Node, opset: int) -> bool:
    """Whether a Dropout or batch norm is, or may be, in training mode."""
    kind = edit.op(node)
    if kind == "Dropout":
        if opset < 7:
            return not edit.attr(node, "is_test", 0)
        mode = edit.inp(node, 2)
        return mode is not None and edit.scalar(mode) != 0.0
    if kind == "BatchNormalization":
        if opset < 7:
            return not edit.attr(node, "is_test", 0)
        if opset < 14:
            return any(edit.out(node, index) is not None for index in range(1, len(node.outputs)))
        return bool(edit.attr(node, "training_mode", 0))
    return False
