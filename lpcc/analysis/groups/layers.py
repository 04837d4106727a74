"""Layers: what makes channels of its own, and what sums over channels, which is where removed ones disappear."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups.elementwise import aligned
from lpcc.analysis.groups.labels import Array, Trace
from lpcc.analysis.shape_values import Dims
from lpcc.match import NoMatch


def convolution(trace: Trace, node: gs.Node) -> None:
    """Rows of the weights make channels, columns read them.

    A depthwise convolution, of one input channel per group, does not sum over channels: what it makes of one has its
    label, and the number of groups shrinks with them. Of several groups as many channels must go from each: the i-th of
    one goes with the i-th of the others.
    """
    x, w = node.inputs[:2]
    y = node.outputs[0]
    source, weight = trace.of(x), trace.of(w)
    first, second = (_static(size) for size in trace.dims(w)[:2])
    groups = int(edit.attr(node, "group", 1))
    transposed = edit.op(node) == "ConvTranspose"
    what = f"{node.op} `{edit.label(node)}`"
    if len(source) < 3 or groups < 1 or first % groups:
        raise NoMatch("its groups do not fit its weights")
    for labels in (*source[2:], *weight[2:]):
        trace.labels.pin(labels, f"{what} slides over it")
    read: Array | None
    if groups > 1 and (first if transposed else second * groups) == groups:
        made = _depthwise(trace, node, source[1], weight, what)
        read = None
    elif transposed:
        read = _read_in_groups(trace, source[1], weight[0], groups, what)
        made = weight[1]
        if groups > 1:
            made = trace.pinned(groups, f"{what} has one channel in each group") if made is None else made
            made = np.tile(made, groups) if second > 1 else made
    else:
        line = None if source[1] is None else _in_blocks(trace, source[1], groups)
        read = trace.meet(line, weight[1], f"{what} reads what is fixed")
        read = source[1] if source[1] is not None else read
        made = weight[0]
        if groups > 1 and made is not None:
            _in_blocks(trace, made, groups)
    bias = edit.inp(node, 2)
    if bias is not None:
        made = trace.meet(made, trace.of(bias)[0], f"{what} has a bias that is fixed")
    trace.layers.append((node, read, made))
    trace.note(y, [source[0], made, *[None] * (len(source) - 2)])


def _depthwise(
    trace: Trace, node: gs.Node, channels: Array | None, weight: tuple[Array | None, ...], what: str
) -> Array | None:
    """Labels of what a depthwise convolution makes: those of what it reads, once for each of its multiples."""
    groups = int(edit.attr(node, "group", 1))
    rows = weight[0]
    if rows is None:
        raise NoMatch("its groups do not fit its weights")
    transposed = edit.op(node) == "ConvTranspose"
    if transposed:
        trace.labels.pin(weight[1], f"{what} makes several channels of one")
    multiple = len(weight[1]) if transposed and weight[1] is not None else 1 if transposed else len(rows) // groups
    reason = f"{what} reads what is fixed"
    if channels is None or len(channels) != groups:
        trace.labels.pin(channels, reason)
        trace.labels.pin(rows, reason)
        return np.repeat(rows, multiple) if transposed else rows
    trace.labels.join(channels if transposed else np.repeat(channels, multiple), rows)
    return np.repeat(channels, multiple)


def _in_blocks(trace: Trace, labels: Array, groups: int) -> Array:
    """Join the i-th labels of equal blocks; the labels of the first block."""
    return trace.labels.join_rows(labels.reshape(groups, -1))


def _read_in_groups(trace: Trace, source: Array | None, rows: Array | None, groups: int, what: str) -> Array | None:
    for labels in (source, rows):
        if labels is not None:
            _in_blocks(trace, labels, groups)
    return trace.meet(source, rows, f"{what} reads what is fixed")


def gemm(trace: Trace, node: gs.Node) -> None:
    """``alpha A' B' + beta C``: the inner axes are summed over, the outer ones stay."""
    a, b = list(trace.of(node.inputs[0])), list(trace.of(node.inputs[1]))
    a_dims, b_dims = list(trace.dims(node.inputs[0])), list(trace.dims(node.inputs[1]))
    if edit.attr(node, "transA", 0):
        a, a_dims = a[::-1], a_dims[::-1]
    if edit.attr(node, "transB", 0):
        b, b_dims = b[::-1], b_dims[::-1]
    read = trace.meet(a[1], b[0], f"Gemm `{edit.label(node)}` reads what is fixed")
    made: list[Array | None] = [a[0], b[1]]
    bias = edit.inp(node, 2)
    if bias is not None:
        operands: list[tuple[list[Array | None], Dims]] = [(made, (a_dims[0], b_dims[1]))]
        made = aligned(trace, node, [*operands, (list(trace.of(bias)), trace.dims(bias))])
    trace.layers.append((node, read, made[1]))
    trace.note(node.outputs[0], made)


def matmul(trace: Trace, node: gs.Node) -> None:
    """The last axis of the first operand and the last but one of the second are summed over, be they weights or not."""
    first, second = node.inputs
    a, b = trace.of(first), trace.of(second)
    if len(a) < 2 or len(b) < 2:
        raise NoMatch("an operand is a vector")
    read = trace.meet(a[-1], b[-2], f"MatMul `{edit.label(node)}` reads what is fixed")
    a_dims, b_dims = trace.dims(first)[:-2], trace.dims(second)[:-2]
    batch = aligned(trace, node, [(a[:-2], a_dims), (b[:-2], b_dims)]) if a_dims or b_dims else []
    trace.layers.append((node, read, b[-1]))
    trace.note(node.outputs[0], [*batch, a[-2], b[-1]])


def _static(size: object) -> int:
    if not isinstance(size, int):
        raise NoMatch("the size of its weights is not known")
    return size
