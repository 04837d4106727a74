"""The questions that passes ask of the nodes around a node when they look for a pattern.

All take constant time and go by identity. A pattern stays within one graph: a node of a graph around it, or of one
nested in it, is never found. A pattern that is almost there raises `NoMatch` with the reason, which the pass records::

    with edit.Edit(graph) as e:
        for node in e.nodes:
            if not e.live(node) or edit.op(node) != "Mul":
                continue
            try:
                fold(e, node, changes)
            except match.NoMatch as why:
                changes.refuse(node, str(why))
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit


class NoMatch(Exception):  # noqa: N818 - not an error: the pass leaves the node alone
    """A pattern is not there; the message is the reason, for `Changes.refuse`, or empty where none need be given."""


def maker(e: edit.Edit, tensor: gs.Tensor | None, *ops: str) -> gs.Node | None:
    """The node of this graph that makes `tensor`; None if there is none, or it is not one of `ops`."""
    node = e.producer(tensor)
    return node if node is not None and e.owns(node) and (not ops or edit.op(node) in ops) else None


def sole_maker(e: edit.Edit, tensor: gs.Tensor | None, *ops: str) -> gs.Node | None:
    """As `maker`, but None also if `tensor` is read more than once or is a graph output: its maker cannot change."""
    node = maker(e, tensor, *ops)
    return node if node is not None and tensor is not None and e.only_user(tensor) is not None else None


def sole_reader(e: edit.Edit, tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """The one node that reads `tensor`, once, in this graph; None if it is not one of `ops`."""
    node = e.only_user(tensor)
    return node if node is not None and e.owns(node) and (not ops or edit.op(node) in ops) else None


def both_orders(node: gs.Node) -> list[tuple[gs.Tensor, gs.Tensor]]:
    """The two operands of a commutative node, in both orders."""
    first, second = node.inputs
    return [(first, second), (second, first)]


def with_constant(node: gs.Node) -> tuple[int, gs.Constant] | None:
    """Of a node with two operands, one of them a constant: the index of the other operand, and the constant."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if isinstance(first, gs.Constant) == isinstance(second, gs.Constant):
        return None
    return (1, first) if isinstance(first, gs.Constant) else (0, second)


def scalar_beside(constant: gs.Tensor | None, other: gs.Tensor) -> float | None:
    """Value of a constant with one element that leaves the shape of `other` as it is; else None."""
    if not isinstance(constant, gs.Constant):
        return None
    rank = len(constant.shape)
    if rank and (other.shape is None or rank > len(other.shape)):
        return None
    return edit.scalar(constant)


def is_float(dtype: Any) -> bool:
    """Whether a tensor type is a floating-point one that ONNX computes in; False where it is unknown."""
    return dtype is not None and (np.dtype(dtype).kind == "f" or np.dtype(dtype).name == "bfloat16")


def epsilon(dtype: Any) -> float:
    """Distance between 1 and the next larger number of a floating-point type."""
    return float(ml_dtypes.finfo(np.dtype(dtype)).eps)  # type: ignore[no-untyped-call]


def smallest_normal(dtype: Any) -> float:
    """The smallest positive number of a floating-point type that has its full precision."""
    return float(ml_dtypes.finfo(np.dtype(dtype)).tiny)  # type: ignore[no-untyped-call]


def close(value: float | None, expected: float, dtype: Any) -> bool:
    """Whether a constant of type `dtype` is `expected` within the rounding of writing it down and one operation."""
    return value is not None and abs(value - expected) <= 4 * epsilon(dtype) * abs(expected)
