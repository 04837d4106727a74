"""Signed activations of 8 bits as unsigned ones, and the reverse: the same numbers, 128 integers higher or lower."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit

_MOVES = frozenset({"Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose"})
"""Operators that may stand on the integers themselves: what they do commutes with adding a constant."""
_ZERO_POINTED = ("QuantizeLinear", "DequantizeLinear")


def with_activations(graph: gs.Graph, signs: Literal["u8", "s8"]) -> bool:
    """Give the activations of a Q/DQ graph those integers, in place; whether anything was to be changed and could be.

    Integer products are equal either way, so a kernel for one kind gives what a kernel for the other gives. Nothing is
    changed where such integers leave the graph, or go to an operator to which 128 more is not the same.
    """
    old, new = (np.int8, np.uint8) if signs == "u8" else (np.uint8, np.int8)
    with edit.Edit(graph) as editing:
        makers = [node for node in editing.nodes if edit.op(node) == "QuantizeLinear" and _type(node) == old]
        tensors = [node.outputs[0] for node in makers]
        readers: dict[int, gs.Node] = {}
        for tensor in tensors:  # grows
            if editing.is_output(tensor):
                return False
            for user in editing.users(tensor):
                if user.inputs[0] is not tensor or edit.op(user) not in (*_MOVES, "DequantizeLinear"):
                    return False
                if id(user) not in readers and edit.op(user) in _MOVES:
                    tensors.append(user.outputs[0])
                readers[id(user)] = user
        places = [(node, _place(node)) for node in (*makers, *readers.values())]
        if any(index is not None and edit.const(edit.inp(node, index)) is None for node, index in places):
            return False
        constants: dict[int, gs.Constant] = {}
        for node, index in places:
            if index is None:
                continue
            source = node.inputs[index]
            if id(source) not in constants:
                values = source.values.astype(np.int16) + (128 if signs == "u8" else -128)
                constants[id(source)] = editing.constant(source.name, values.astype(new))
            editing.replace_input(node, index, constants[id(source)])
        for tensor in tensors:
            tensor.dtype = np.dtype(new)
    return bool(makers)


def _type(quantizer: gs.Node) -> np.dtype | None:
    zero = edit.const(edit.inp(quantizer, 2))
    return None if zero is None else zero.dtype


def _place(node: gs.Node) -> int | None:
    """Where a node reads an integer of the activation's kind besides the activation; None if it does not."""
    padded = edit.op(node) == "Pad" and edit.attr(node, "mode", "constant") == "constant"
    return 2 if padded or edit.op(node) in _ZERO_POINTED else None
