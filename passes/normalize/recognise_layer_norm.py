"""`recognise-layer-norm`: layer norms spelt out in arithmetic become LayerNormalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.match import NoMatch, both_orders, maker, scalar_beside, sole_maker, sole_reader
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass

_LAYER_NORM: Final = 17  # the opset that has it
_TYPES: Final = ("float16", "float32", "float64")


@dataclass(frozen=True)
class RecogniseLayerNorm(LocalPass):
    """Recognise layer norm over the last axes of a tensor (Ba et al., 2016, arXiv:1607.06450).

        d = x - mean(x),    y = scale * d / sqrt(mean(d * d) + epsilon) + bias,

    The scale and the bias may be missing, d may be computed once or twice, its square by Pow or Mul, and
    the division by Div, or by Reciprocal and Mul.

    Left alone: means over other axes than the last ones (channels of an image), or that drop them; an epsilon that is
    not constant; intermediate results that are read elsewhere too or are graph outputs; scales and biases that are not
    of the size of the normalised axes; a norm without scale over axes of unknown size; models below opset 17.
    """

    name: ClassVar[str] = "recognise-layer-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Look for the square root in the middle of each layer norm, and from there on both sides."""
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "Sqrt" or not e.live(node):
                    continue
                norm = _normalised(e, node)
                if norm is None:
                    continue
                try:
                    _replace(e, norm, int(graph.opset))
                except NoMatch as why:
                    changes.refuse(node, str(why))
                else:
                    changes.done(norm.result.name, "layer norm recognised")


@dataclass(frozen=True)
class _Norm:
    """What was found: (x - mean) / deviation over the last `axes` axes."""

    x: gs.Tensor
    axes: int
    epsilon: float
    nodes: Sequence[gs.Node]
    result: gs.Tensor


def _normalised(e: edit.Edit, root: gs.Node) -> _Norm | None:
    """The layer norm, without scale and bias, that has `root` for its square root; None if there is none."""
    add = sole_maker(e, root.inputs[0], "Add")
    if add is None:
        return None
    for term, constant in both_orders(add):
        epsilon = scalar_beside(constant, term)
        variance = sole_maker(e, term, "ReduceMean")
        if epsilon is not None and epsilon >= 0 and variance is not None:
            break
    else:
        return None
    square = sole_maker(e, variance.inputs[0], "Pow", "Mul")
    squared = None if square is None else _squared(square)
    difference = maker(e, squared, "Sub")
    if square is None or squared is None or difference is None:
        return None
    x = difference.inputs[0]
    division = _division(e, root)
    if division is None:
        return None
    numerator = maker(e, division[0], "Sub")
    if numerator is None or numerator.inputs[0] is not x:
        return None
    differences = _distinct([difference, numerator])
    means = _distinct([mean for node in differences if (mean := maker(e, node.inputs[1], "ReduceMean")) is not None])
    axes = _last_axes(variance)
    if axes is None or any(mean.inputs[0] is not x or _last_axes(mean) != axes for mean in means):
        return None
    if any(maker(e, node.inputs[1], "ReduceMean") is None for node in differences):
        return None
    inner = [root, add, variance, square, *differences, *means]
    nodes = [*inner, *division[1]]
    return _Norm(x, axes, epsilon, nodes, division[1][-1].outputs[0]) if _closed(e, nodes) else None


def _squared(node: gs.Node) -> gs.Tensor | None:
    """The tensor whose square a node computes."""
    first, second = node.inputs
    if edit.op(node) == "Pow":
        return first if scalar_beside(second, first) == 2.0 else None
    return first if first is second else None


def _division(e: edit.Edit, root: gs.Node) -> tuple[gs.Tensor, list[gs.Node]] | None:
    """What is divided by the result of `root`, and the nodes that do it, last one last."""
    divisor = root.outputs[0]
    node = sole_reader(e, divisor, "Div", "Reciprocal")
    if node is None:
        return None
    if edit.op(node) == "Div":
        if node.inputs[1] is divisor and not isinstance(node.inputs[0], gs.Constant):
            return node.inputs[0], [node]
        if scalar_beside(node.inputs[0], divisor) != 1.0:
            return None
    inverse = node.outputs[0]
    product = sole_reader(e, inverse, "Mul")
    if product is None:
        return None
    other = product.inputs[1] if product.inputs[0] is inverse else product.inputs[0]
    return other, [node, product]


def _distinct(nodes: Sequence[gs.Node]) -> list[gs.Node]:
    return list({id(node): node for node in nodes}.values())


def _last_axes(mean: gs.Node) -> int | None:
    """How many of the last axes a ReduceMean takes the mean of, keeping them; None if it does anything else."""
    shape = mean.inputs[0].shape
    axes = edit.attr(mean, "axes") if "axes" in mean.attrs else edit.const(edit.inp(mean, 1))
    if shape is None or axes is None or not edit.attr(mean, "keepdims", 1):
        return None
    rank = len(shape)
    found = sorted(int(axis) % rank for axis in np.asarray(axes).reshape(-1)) if rank else []
    return len(found) if found and found == list(range(rank - len(found), rank)) else None


def _closed(e: edit.Edit, nodes: Sequence[gs.Node]) -> bool:
    """Whether the results of all nodes but the last are read by these nodes alone."""
    own = {id(node) for node in nodes}
    return all(
        not e.is_output(node.outputs[0]) and all(id(reader) in own for reader in e.users(node.outputs[0]))
        for node in nodes[:-1]
    )


def _replace(e: edit.Edit, norm: _Norm, opset: int) -> None:
    """Put a LayerNormalization in the place of a norm, with the scale and the bias that follow it."""
    if opset < _LAYER_NORM:
        raise NoMatch(f"it is part of a layer norm, which ONNX has from opset {_LAYER_NORM}")
    if norm.x.dtype is None or np.dtype(norm.x.dtype).name not in _TYPES or norm.x.shape is None:
        raise NoMatch("it is part of a layer norm of an unknown type")
    sizes = norm.x.shape[len(norm.x.shape) - norm.axes :]
    nodes, result = list(norm.nodes), norm.result
    scale = bias = None
    if (found := _parameter(e, result, "Mul", sizes)) is not None:
        scale, result = found[1], found[0].outputs[0]
        nodes.append(found[0])
    if (found := _parameter(e, result, "Add", sizes)) is not None:
        bias, result = found[1], found[0].outputs[0]
        nodes.append(found[0])
    if scale is None:
        if not all(isinstance(size, int) for size in sizes):
            raise NoMatch("it is part of a layer norm without scale, over axes of unknown size")
        scale = e.constant(f"{result.name}_scale", np.ones(sizes, norm.x.dtype))
    name = nodes[-1].name
    for node in nodes:
        e.remove(node)
    inputs = [norm.x, scale] if bias is None else [norm.x, scale, bias]
    e.add("LayerNormalization", inputs, [result], {"axis": -norm.axes, "epsilon": norm.epsilon}, name)


def _parameter(
    e: edit.Edit, tensor: gs.Tensor, kind: str, sizes: Sequence[int | str | None]
) -> tuple[gs.Node, gs.Tensor] | None:
    """The Mul or Add that alone reads a tensor, and its other operand, if that has exactly the given sizes."""
    node = sole_reader(e, tensor, kind)
    if node is None:
        return None
    other = node.inputs[1] if node.inputs[0] is tensor else node.inputs[0]
    if other.shape is None or list(other.shape) != list(sizes) or not all(isinstance(size, int) for size in sizes):
        return None
    return node, other
