"""Weights that a graph computes from constants: small integers, and operators that turn them into numbers.

Runtimes compute these once, when they load the model. Here the same is done with NumPy, for those who ask what the
weights of a layer are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shapes import constant_of
from lpcc.door.lazy import numpy_dtype

Array = np.ndarray[Any, Any]

_MOST_NODES = 64
"""Larger subgraphs of constants are no decoders; it bounds how far a walk goes."""


def makers(tensor: gs.Tensor) -> list[gs.Node] | None:
    """The nodes that compute a tensor of constants alone, in order; None for constants themselves and for all others.

    Looks at no more than a handful of nodes, however large the graph.
    """
    if constant_of(tensor) is not None or not tensor.inputs:
        return None
    found: dict[int, gs.Node] = {}
    open_: list[tuple[gs.Node, Iterator[gs.Tensor]]] = [(tensor.inputs[0], iter(tensor.inputs[0].inputs))]
    started = {id(tensor.inputs[0])}
    while open_:
        node, sources = open_[-1]
        if edit.op(node) not in _OPERATORS or len(started) > _MOST_NODES:
            return None
        for source in sources:
            if source.name == "" or constant_of(source) is not None:
                continue
            if not source.inputs:
                return None
            if id(source.inputs[0]) not in started:
                started.add(id(source.inputs[0]))
                open_.append((source.inputs[0], iter(source.inputs[0].inputs)))
                break
        else:
            found[id(node)] = node
            open_.pop()
    return list(found.values())


def decoded(tensor: gs.Tensor) -> Array | None:
    """Values of a constant, or of a tensor computed from constants; None for any other."""
    constant = constant_of(tensor)
    if constant is not None:
        return np.asarray(constant.values)
    nodes = makers(tensor)
    return None if nodes is None else _value(tensor, nodes)


def unscaled(tensor: gs.Tensor) -> Array | None:
    """As `decoded`, but without the scale of each output channel, if multiplying by it is what comes last.

    Hardware multiplies by such a scale once for each sum, not for each weight.
    """
    nodes = makers(tensor)
    if nodes is None:
        return decoded(tensor)
    last = nodes[-1]
    if edit.op(last) == "DequantizeLinear" and not edit.attr(last, "block_size", 0):
        codes = _value(last.inputs[0], nodes)
        zero = edit.const(edit.inp(last, 2))
        plain = zero is None or not np.asarray(zero).astype(np.float32).any()
        return codes if codes is not None and plain else decoded(tensor)
    if edit.op(last) == "Mul":
        for source, scale in (last.inputs, reversed(last.inputs)):
            factor = constant_of(scale)
            if factor is not None and sum(size != 1 for size in factor.shape) <= 1:
                return _value(source, nodes)
    return decoded(tensor)


def codes(tensor: gs.Tensor) -> list[gs.Constant]:
    """The integer constants of at most 16 bits that a tensor is computed from, scales and zero points apart."""
    found: dict[int, gs.Constant] = {}
    for node in makers(tensor) or ():
        sources = node.inputs[:1] if edit.op(node) in ("DequantizeLinear", "Cast") else node.inputs
        for source in sources:
            constant = constant_of(source)
            if constant is not None and "int" in str(constant.dtype) and str(constant.dtype)[-2:] not in ("32", "64"):
                found[id(constant)] = constant
    tables = [constant_of(node.inputs[0]) for node in makers(tensor) or () if edit.op(node) == "Gather"]
    return [constant for constant in found.values() if not any(constant is table for table in tables)]


def _value(tensor: gs.Tensor, nodes: list[gs.Node]) -> Array | None:
    """Value of a tensor that some of `nodes` compute."""
    known: dict[int, Array] = {}

    def value(source: gs.Tensor) -> Array:
        constant = constant_of(source)
        return known[id(source)] if constant is None else np.asarray(constant.values)

    for node in nodes:
        if len(node.outputs) != 1:
            return None
        known[id(node.outputs[0])] = _OPERATORS[edit.op(node)](node, [value(t) for t in node.inputs if t.name])
    return value(tensor)


def _cast(node: gs.Node, values: list[Array]) -> Array:
    return values[0].astype(numpy_dtype(int(edit.attr(node, "to"))))


def _gather(node: gs.Node, values: list[Array]) -> Array:
    return np.take(values[0], values[1].astype(np.int64), axis=int(edit.attr(node, "axis", 0)))


def _slice(_: gs.Node, values: list[Array]) -> Array:
    data, starts, ends = values[:3]
    axes = values[3] if len(values) > 3 else np.arange(len(starts))
    steps = values[4] if len(values) > 4 else np.ones(len(starts), dtype=np.int64)
    cut = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[int(axis)] = slice(int(start), int(end) if end > -data.shape[int(axis)] - 1 else None, int(step))
    return data[tuple(cut)]


def _dequantize(node: gs.Node, values: list[Array]) -> Array:
    numbers, scale = values[0].astype(np.float32), values[1]
    zero = values[2].astype(np.float32) if len(values) > 2 else np.zeros_like(scale)
    axis, block = int(edit.attr(node, "axis", 1)), int(edit.attr(node, "block_size", 0))
    if block:
        places = np.arange(numbers.shape[axis]) // block
        scale, zero = np.take(scale, places, axis), np.take(zero, places, axis)
    elif scale.ndim and scale.size > 1:
        shape = [-1 if i == axis % numbers.ndim else 1 for i in range(numbers.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return np.asarray((numbers - zero) * scale)


def _reshape(node: gs.Node, values: list[Array]) -> Array:
    wanted = [int(size) for size in values[1]]
    if not edit.attr(node, "allowzero", 0):
        wanted = [values[0].shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return values[0].reshape(wanted)


def _transpose(node: gs.Node, values: list[Array]) -> Array:
    return np.transpose(values[0], edit.attr(node, "perm"))


_OPERATORS: dict[str, Callable[[gs.Node, list[Array]], Array]] = {
    "Add": lambda _, values: values[0] + values[1],
    "Cast": _cast,
    "Concat": lambda node, values: np.concatenate(values, axis=int(edit.attr(node, "axis"))),
    "DequantizeLinear": _dequantize,
    "Div": lambda _, values: values[0] / values[1],
    "Gather": _gather,
    "Identity": lambda _, values: values[0],
    "Max": lambda _, values: np.maximum.reduce(np.broadcast_arrays(*values)),
    "Min": lambda _, values: np.minimum.reduce(np.broadcast_arrays(*values)),
    "Mul": lambda _, values: values[0] * values[1],
    "Neg": lambda _, values: -values[0],
    "Relu": lambda _, values: np.maximum(values[0], 0),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sub": lambda _, values: values[0] - values[1],
    "Transpose": _transpose,
}
"""Operators that decoders are made of, on arrays."""
