"""Groups of small operators that onnxruntime recognises as one larger one before it runs a graph.

Each function looks from an anchor, an operator that only such a group has, to its neighbours. It gives the group's
nodes, the one that makes the result last, or nothing where the group is no such thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeGuard

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.runtimes.base import Facts

Group = tuple[gs.Node, ...]


def groups(graph: gs.Graph, facts: Facts, *, shuffles: bool) -> dict[int, Group]:
    """The groups of a graph, without its subgraphs, by the id of each of their nodes; they do not overlap.

    With `shuffles`, a channel shuffle of which only halves are taken is one reshape, as in newer releases.
    """
    found: dict[int, Group] = {}
    for round_ in (_FIRST, {**_THEN, "Transpose": _shuffle} if shuffles else _THEN):
        for node in graph.nodes:
            match = round_.get(edit.op(node))
            if match is None or id(node) in facts.removed:
                continue
            group = match(node, facts, found)
            if len(group) > 1:
                found.update((id(member), group) for member in group)
    return found


def _gelu(erf: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:
    """Gelu: x / sqrt(2) -> Erf -> + 1 -> times x and 0.5, in either order."""
    scale, more = _maker(erf.inputs[0]), facts.reader(erf.outputs[0])
    if scale is None or edit.op(scale) not in ("Div", "Mul") or not _is(more, "Add"):
        return ()
    x = _variable(scale, facts)
    product = facts.reader(more.outputs[0])
    if x is None or not _is(product, "Mul") or _constant(more, facts) is None or found.get(id(scale)):
        return ()
    other = _other(product, more.outputs[0])
    if other is x:
        half = facts.reader(product.outputs[0])
        return (scale, erf, more, product, half) if _is(half, "Mul") and _constant(half, facts) == 0.5 else ()
    half = _maker(other)
    if _is(half, "Mul") and _variable(half, facts) is x and _constant(half, facts) == 0.5:
        return (half, scale, erf, more, product)
    return ()


def _norm(root: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:
    """Layer norm: (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias, or the same without mean and bias."""
    add = _maker(root.inputs[0])
    mean = _maker(_variable(add, facts)) if _is(add, "Add") else None
    square = _maker(mean.inputs[0]) if _is(mean, "ReduceMean") else None
    if not _is(square, "Pow", "Mul") or id(root) in found:
        return ()
    d = square.inputs[0]
    squares = edit.scalar(square.inputs[1]) == 2 if square.op == "Pow" else square.inputs[1] is d
    if not squares:
        return ()
    quotient = facts.reader(root.outputs[0])
    if not _is(quotient, "Div") or quotient.inputs[0] is not d:
        return ()
    core = (square, mean, add, root, quotient)
    scaled = facts.reader(quotient.outputs[0])
    if not _is(scaled, "Mul") or not any(facts.constant(t) for t in scaled.inputs):
        return ()
    centred = _maker(d)
    average = _maker(centred.inputs[1]) if _is(centred, "Sub") else None
    if centred is None or not _is(average, "ReduceMean") or average.inputs[0] is not centred.inputs[0]:
        return (*core, scaled)
    shifted = facts.reader(scaled.outputs[0])
    if not _is(shifted, "Add") or not any(facts.constant(t) for t in shifted.inputs):
        return ()
    return (average, centred, *core, scaled, shifted)


def _scaled_product(product: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:
    """A matrix product with constant factors and transposes of the last two axes around it, or the sum after it."""
    bias = facts.reader(product.outputs[0])
    if _is(bias, "Add") and any(facts.constant(t) for t in bias.inputs) and _is_bias(product, bias, facts):
        return (product, bias)
    before: list[gs.Node] = []
    for tensor in product.inputs:
        maker = _maker(tensor)
        while maker is not None and facts.reader(maker.outputs[0]) is product and id(maker) not in found:
            if not (_is(maker, "Mul", "Div") and _scales(maker, facts)) and not _swaps_last(maker):
                break
            before.append(maker)
            break
    factor = facts.reader(product.outputs[0])
    after = (factor,) if _is(factor, "Mul", "Div") and _scales(factor, facts) else ()
    return (*before, product, *after)


def _transposed_product(product: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:  # noqa: ARG001
    """A Gemm that reads a transposed matrix."""
    before = [m for m in map(_maker, product.inputs[:2]) if _is(m, "Transpose") and edit.attr(m, "perm", []) == [1, 0]]
    return (*(m for m in before if facts.reader(m.outputs[0]) is product), product)


def _integer_product(product: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:  # noqa: ARG001
    """MatMulInteger -> Cast -> times the product of both scales -> + bias, with the quantisation of its input."""
    cast = facts.reader(product.outputs[0])
    scaled = facts.reader(cast.outputs[0]) if _is(cast, "Cast") else None
    if cast is None or not _is(scaled, "Mul"):
        return ()
    scales = _maker(_other(scaled, cast.outputs[0]))
    if not _is(scales, "Mul"):
        return ()
    quantize = _maker(product.inputs[0])
    core: Group = (scales, product, cast, scaled)
    bias = facts.reader(scaled.outputs[0])
    if _is(bias, "Add") and any(facts.constant(t) for t in bias.inputs):
        core = (*core, bias)
    if _is(quantize, "DynamicQuantizeLinear") and facts.reader(quantize.outputs[0]) is product:
        return (quantize, *core)
    return core


def _skip_norm(norm: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:
    """A residual sum whose one reader is a layer norm."""
    first = found.get(id(norm), (norm,))
    add = _maker(first[0].inputs[0])
    if not _is(add, "Add") or id(add) in found or len(_rank(add, facts)) != 3:
        return ()
    fixed = any(facts.constant(t) for t in add.inputs)
    alone = all(id(reader) in {id(n) for n in first} for reader in add.outputs[0].outputs)
    alike = len({facts.shapes.of(t) for t in add.inputs}) == 1
    return (add, *first) if alone and alike and not fixed and id(add.outputs[0]) not in facts.returned else ()


def _quick_gelu(sigmoid: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:  # noqa: ARG001
    """Quick gelu: x * sigmoid(k * x)."""
    product = facts.reader(sigmoid.outputs[0])
    if not _is(product, "Mul"):
        return ()
    x = _other(product, sigmoid.outputs[0])
    if x is sigmoid.inputs[0]:
        return (sigmoid, product)
    scaled = _maker(sigmoid.inputs[0])
    if _is(scaled, "Mul") and _scales(scaled, facts) and _variable(scaled, facts) is x:
        return (scaled, sigmoid, product) if facts.reader(scaled.outputs[0]) is sigmoid else ()
    return ()


def _split(part: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:
    """Slices that cut a tensor into consecutive parts; the first one last, as the others follow from it."""
    if id(part) in found:
        return ()
    slices = [n for n in part.inputs[0].outputs if edit.op(n) == "Slice"]
    shape = facts.shapes.of(part.inputs[0])
    if len(slices) < 2 or len(slices) != len(part.inputs[0].outputs) or shape is None:
        return ()
    cuts = [_cut(n) for n in slices]
    axes = {cut[0] for cut in cuts if cut is not None}
    if None in cuts or len(axes) != 1:
        return ()
    size = shape[axes.pop()]
    ranges = sorted((cut[1], min(cut[2], size)) for cut in cuts if cut is not None)
    whole = ranges[0][0] == 0 and ranges[-1][1] == size
    joined = all(a[1] == b[0] for a, b in pairwise(ranges))
    return tuple(reversed(slices)) if whole and joined else ()


def _shuffle(transpose: gs.Node, facts: Facts, found: dict[int, Group]) -> Group:  # noqa: ARG001
    """Reshape, Transpose of two axes and Reshape, of which each reader gathers one index of the first axis."""
    before, after = _maker(transpose.inputs[0]), facts.reader(transpose.outputs[0])
    if before is None or after is None or len(before.outputs[0].outputs) > 1:
        return ()
    if edit.op(before) != "Reshape" or edit.op(after) != "Reshape":
        return ()
    shape, readers = facts.shapes.of(after.outputs[0]), after.outputs[0].outputs
    order = list(edit.attr(transpose, "perm", []))
    if not readers or shape is None or order[:2] != [1, 0] or order[2:] != [*range(2, len(order))]:
        return ()
    first = (facts.shapes.of(transpose.outputs[0]) or (0,))[0]
    halves = all(_is(reader, "Gather") and edit.attr(reader, "axis", 0) == 0 for reader in readers)
    return (before, transpose, after) if halves and shape[0] == first else ()


def _cut(node: gs.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a Slice of one axis."""
    values = [edit.const(t) for t in node.inputs[1:4]]
    step = edit.scalar(node.inputs[4]) if len(node.inputs) > 4 else 1
    if len(values) < 3 or any(v is None or v.size != 1 for v in values) or step != 1:
        return None
    start, end, axis = (int(v.reshape(-1)[0]) for v in values if v is not None)
    return (axis, start, end) if axis >= 0 and start >= 0 and end > start else None


_Match = Callable[[gs.Node, Facts, dict[int, Group]], Group]

_FIRST: dict[str, _Match] = {
    "Erf": _gelu,
    "Sqrt": _norm,
    "MatMul": _scaled_product,
    "Gemm": _transposed_product,
    "MatMulInteger": _integer_product,
    "Sigmoid": _quick_gelu,
    "Slice": _split,
}
_THEN: dict[str, _Match] = {"LayerNormalization": _skip_norm, "Sqrt": _skip_norm}


def _is(node: gs.Node | None, *ops: str) -> TypeGuard[gs.Node]:
    return node is not None and edit.op(node) in ops


def _maker(tensor: gs.Tensor | None) -> gs.Node | None:
    if tensor is None or len(tensor.inputs) != 1:
        return None
    maker: gs.Node = tensor.inputs[0]
    return maker


def _other(node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
    """The input of a binary node beside this one."""
    second: gs.Tensor = node.inputs[1] if node.inputs[0] is tensor else node.inputs[0]
    return second


def _variable(node: gs.Node, facts: Facts) -> gs.Tensor | None:
    """The one input of a binary node that is not constant."""
    found = [t for t in node.inputs if not facts.constant(t)]
    return found[0] if len(found) == 1 else None


def _constant(node: gs.Node, facts: Facts) -> float | None:
    """The one scalar constant among a node's inputs."""
    values = [edit.scalar(t) for t in node.inputs if facts.constant(t)]
    return values[0] if len(values) == 1 else None


def _scales(node: gs.Node, facts: Facts) -> bool:
    """Whether a Mul or Div has a constant of one element as factor or divisor."""
    candidates: Iterable[gs.Tensor] = node.inputs[1:] if edit.op(node) == "Div" else node.inputs
    sizes = [facts.shapes.elements(t) for t in candidates if facts.constant(t)]
    return len(sizes) == 1 and sizes[0] == 1


def _swaps_last(node: gs.Node) -> bool:
    """Whether a node transposes the last two axes, and no others."""
    order = list(edit.attr(node, "perm", []))
    rank = len(order)
    return edit.op(node) == "Transpose" and rank > 1 and order == [*range(rank - 2), rank - 1, rank - 2]


def _rank(node: gs.Node, facts: Facts) -> tuple[int, ...]:
    return facts.shapes.of(node.outputs[0]) or ()


def _is_bias(product: gs.Node, add: gs.Node, facts: Facts) -> bool:
    """Whether what is added to a product by a matrix of constants has one value for each of its columns."""
    first, second, out = (facts.shapes.of(t) for t in (*product.inputs, product.outputs[0]))
    bias = next(facts.shapes.of(t) for t in add.inputs if facts.constant(t))
    if first is None or second is None or out is None or bias is None or len(second) != 2 or len(first) < 2:
        return False
    return bias == (out[-1],) or (len(first) == 2 and bias == (1, out[-1]))
