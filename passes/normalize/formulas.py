"""Formulas of one tensor, read from the nodes that spell them out.

Exporters write activations as arithmetic: h-swish is Add, Clip, Mul and Div, in any order. Two forms are closed under
what they use, so that all the ways to write them read alike:

    a ramp       clip(a x + b, low, high)    of Add, Sub, Mul, Div, Min, Max with a number, Neg, Clip, Relu, HardSigmoid
    a product    k u v ... / (w ...)         of Mul, Div and Reciprocal

A formula holds the nodes that it was read from. All but the last of them are read by one another alone, so that they
can go when the last one is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds
from lpcc.match import close, scalar_beside, sole_maker, with_constant

_LONGEST: Final = 6
"""Nodes that a formula is read from at most; what exporters write has four or five."""


@dataclass(frozen=True)
class Ramp:
    """The formula clip(a x + b, low, high)."""

    x: gs.Tensor
    a: float = 1.0
    b: float = 0.0
    low: float = -inf
    high: float = inf
    nodes: tuple[gs.Node, ...] = ()

    def scaled(self, scale: float, shift: float = 0.0) -> Ramp:
        """The ramp times `scale`, which is not 0, plus `shift`."""
        low, high = sorted((self.low * scale + shift, self.high * scale + shift))
        return replace(self, a=self.a * scale, b=self.b * scale + shift, low=low, high=high)

    def clipped(self, low: float, high: float) -> Ramp:
        """The ramp clipped to a range that is not empty."""
        return replace(self, low=min(max(self.low, low), high), high=min(max(self.high, low), high))

    def spans(self, low: float, high: float) -> bool:
        """Whether the ramp runs from `low` to `high`, within rounding."""
        dtype = self.x.dtype
        return (close(self.low, low, dtype) or abs(self.low - low) < 1e-6) and close(self.high, high, dtype)


def ramps(e: edit.Edit, last: gs.Node, stop: gs.Tensor | None = None) -> Iterator[Ramp]:
    """The ramps that end at the node `last`, from the longest to the shortest.

    With `stop` only the one whose x is that tensor.
    """
    chain: list[tuple[gs.Node, gs.Tensor]] = []
    node: gs.Node | None = last
    while node is not None and len(chain) < _LONGEST and (source := _source(node)) is not None:
        chain.append((node, source))
        if source is stop:
            break
        node = sole_maker(e, source)
    while chain:
        x = chain[-1][1]
        if stop is None or x is stop:
            ramp: Ramp | None = Ramp(x)
            for node, source in reversed(chain):
                ramp = None if ramp is None else _extended(ramp, node, source)
            if ramp is not None:
                yield replace(ramp, nodes=tuple(node for node, _ in chain))
        chain.pop()


def _source(node: gs.Node) -> gs.Tensor | None:
    """The tensor that a node of a ramp works on; None if it is no such node."""
    kind = edit.op(node)
    if kind in ("Relu", "Clip", "Neg", "HardSigmoid"):
        return node.inputs[0]
    if kind in ("Add", "Sub", "Mul", "Div", "Min", "Max"):
        found = with_constant(node)
        if found is not None and scalar_beside(found[1], node.inputs[found[0]]) is not None:
            return node.inputs[found[0]]
    return None


def _extended(ramp: Ramp, node: gs.Node, source: gs.Tensor) -> Ramp | None:
    """What a node makes of a ramp; None if that is none."""
    kind = edit.op(node)
    if kind == "Relu":
        return ramp.clipped(0.0, inf)
    if kind == "Neg":
        return ramp.scaled(-1.0)
    if kind == "HardSigmoid":
        alpha = float(edit.attr(node, "alpha", 0.2))
        return ramp.scaled(alpha, float(edit.attr(node, "beta", 0.5))).clipped(0.0, 1.0) if alpha else None
    if kind == "Clip":
        low, high = clip_bounds(node)
        return ramp.clipped(low, high) if low is not None and high is not None and low <= high else None
    found = with_constant(node)
    value = None if found is None else scalar_beside(found[1], source)
    if found is None or value is None or value != value or abs(value) == inf:
        return None
    if kind == "Add":
        return ramp.scaled(1.0, value)
    if kind == "Sub":
        return ramp.scaled(1.0, -value) if found[0] == 0 else ramp.scaled(-1.0, value)
    if kind == "Min":
        return ramp.clipped(-inf, value)
    if kind == "Max":
        return ramp.clipped(value, inf)
    if value == 0 or (kind == "Div" and found[0] == 1):
        return None
    return ramp.scaled(value if kind == "Mul" else 1 / value)


@dataclass(frozen=True)
class Product:
    """The formula ``factor * above[0] * above[1] ... / (below[0] ...)``."""

    factor: float
    above: tuple[gs.Tensor, ...]
    below: tuple[gs.Tensor, ...]
    nodes: tuple[gs.Node, ...]


def product(e: edit.Edit, last: gs.Node) -> Product | None:
    """The product that ends at the node `last`, a Mul, Div or Reciprocal; None if it is none, or a long one."""
    factor, nodes = 1.0, []
    above: list[gs.Tensor] = []
    below: list[gs.Tensor] = []
    todo: list[tuple[gs.Node, bool]] = [(last, False)]
    while todo:
        node, inverted = todo.pop()
        nodes.append(node)
        kind = edit.op(node)
        if len(nodes) > _LONGEST or kind not in ("Mul", "Div", "Reciprocal"):
            return None
        for index, tensor in enumerate(node.inputs):
            down = inverted != (kind == "Reciprocal" or (kind == "Div" and index == 1))
            value = None if kind == "Reciprocal" else scalar_beside(tensor, node.inputs[1 - index])
            if value is not None:
                if value == 0:
                    return None
                factor = factor / value if down else factor * value
                continue
            maker = sole_maker(e, tensor, "Mul", "Div", "Reciprocal")
            if maker is not None:
                todo.append((maker, down))
            else:
                (below if down else above).append(tensor)
    return Product(factor, tuple(above), tuple(below), tuple(nodes))


def power(e: edit.Edit, last: gs.Node, x: gs.Tensor) -> tuple[float, float, tuple[gs.Node, ...]] | None:
    """Of a node that computes ``k * x**n``: k, n and the nodes that spell it out; None if it computes anything else."""
    if (exponent := _exponent(last, x)) is not None:
        return 1.0, exponent, (last,)
    found = product(e, last)
    if found is None or found.below:
        return None
    total, nodes = 0.0, found.nodes
    for tensor in found.above:
        maker = sole_maker(e, tensor, "Pow")
        if tensor is x:
            total += 1
        elif maker is not None and (exponent := _exponent(maker, x)) is not None:
            total, nodes = total + exponent, (*nodes, maker)
        else:
            return None
    return found.factor, total, nodes


def _exponent(node: gs.Node, x: gs.Tensor) -> float | None:
    """The exponent with which a Pow reads x; None for any other node."""
    if edit.op(node) != "Pow" or node.inputs[0] is not x:
        return None
    return scalar_beside(node.inputs[1], x)
