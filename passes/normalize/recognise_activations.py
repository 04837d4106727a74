"""`recognise-activations`: activations spelt out in arithmetic become the operators that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, pi, sqrt
from typing import Any, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.match import NoMatch, both_orders, close, scalar_beside, sole_maker, sole_reader, with_constant
from lpcc.passes.normalize.formulas import Product, Ramp, power, product, ramps
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass

_HARD_SWISH: Final = 14  # the opset that has it
_GELU: Final = 20
_CLIP_INPUTS: Final = 11
_BROADCASTING: Final = 7
_CLIPS: Final = ("Clip", "Min", "Max", "Relu", "HardSigmoid")


@dataclass(frozen=True)
class RecogniseActivations(LocalPass):
    """Recognise activations in the ways that exporters spell them out, with exactly these constants.

        x clip(x / 6 + 1/2, 0, 1)                        HardSwish; x * HardSigmoid(x) below opset 14
        clip(a x + b, 0, 1), a > 0, 0 < b < 1            HardSigmoid(alpha=a, beta=b)
        x / (1 + exp(-x)),  1 / (1 + exp(-x))            x * Sigmoid(x), Sigmoid
        x (1 + erf(x / sqrt(2))) / 2                     Gelu, from opset 20
        x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2  Gelu(approximate=tanh), from opset 20
        min(max(x, low), high)                           Clip, Relu
        max(x, a x), 0 < a < 1                           LeakyRelu(alpha=a)

    Operands may stand in any order, factors anywhere in a product, and ranges may be written with Clip, Min, Max or
    Relu. (Howard et al., 2019, arXiv:1905.02244; Ramachandran et al., 2017, arXiv:1710.05941; Hendrycks and Gimpel,
    2016, arXiv:1606.08415.)

    onnxruntime fuses HardSwish, HardSigmoid and Clip into the convolution before them, their spelt-out forms not. SiLU
    stays x * Sigmoid(x), which it runs in one kernel; Swish of opset 24 takes it four.

    Left alone: other constants than these, beyond the rounding of their type; intermediate results that are read
    elsewhere too or are graph outputs; integers; double precision where onnxruntime has no kernel (HardSigmoid, Gelu);
    Gelu below opset 20, of which onnxruntime makes its own; models below opset 7.
    """

    name: ClassVar[str] = "recognise-activations"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Try each node as the last one of a formula, last ones first, so that the longest formula is found."""
        if graph.opset < _BROADCASTING:
            return
        with edit.Edit(graph) as e:
            for node in reversed(e.nodes):
                if not e.live(node) or _dtype(node) is None:
                    continue
                try:
                    found = _formula(e, node, int(graph.opset))
                except NoMatch as why:
                    if not _goes_on(e, node):
                        changes.refuse(node, str(why))
                    continue
                if found is not None:
                    changes.done(node, f"{found.what} recognised")
                    _replace(e, node, found)


def _goes_on(e: edit.Edit, node: gs.Node) -> bool:
    """Whether a node's result is multiplied by a constant next: then its formula was looked at from there."""
    after = sole_reader(e, node.outputs[0], "Mul", "Div")
    return after is not None and with_constant(after) is not None


@dataclass(frozen=True)
class _Found:
    """Operators to stand for the nodes of a formula: each reads what the one before it made.

    An operator is its type, its inputs, of which None is the result of the operator before, and its attributes.
    """

    what: str
    nodes: Sequence[gs.Node]
    operators: Sequence[tuple[str, Sequence[gs.Tensor | None], dict[str, Any]]]


def _dtype(node: gs.Node) -> str | None:
    """Name of the type of a node's only result, if it is a float type that onnxruntime computes activations in."""
    if len(node.outputs) != 1 or node.outputs[0].dtype is None:
        return None
    name = np.dtype(node.outputs[0].dtype).name
    return name if name in ("float16", "float32", "float64") else None


def _replace(e: edit.Edit, last: gs.Node, found: _Found) -> None:
    target, name = last.outputs[0], last.name
    for node in found.nodes:
        e.remove(node)
    result: gs.Tensor | None = None
    for position, (kind, inputs, attributes) in enumerate(found.operators, start=1):
        tensors = [result if given is None else given for given in inputs]
        final = position == len(found.operators)
        result = target if final else e.fresh(f"{target.name}_{kind.lower()}", target.dtype, target.shape)
        e.add(kind, tensors, [result], attributes, name=name if final else "")


def _formula(e: edit.Edit, last: gs.Node, opset: int) -> _Found | None:
    kind = edit.op(last)
    if kind in ("Mul", "Div", "Reciprocal"):
        whole = product(e, last)
        if whole is not None:
            found = _sigmoid(e, whole) or _hard_swish(e, whole, opset) or _gelu(e, whole, opset)
            if found is not None:
                return found
    if _ends_ramp(e, last) and (found := _ramp(e, last, opset)) is not None:
        return found
    return _leaky_relu(e, last) if kind == "Max" else None


def _ends_ramp(e: edit.Edit, last: gs.Node) -> bool:
    """Whether a node clips, or scales or shifts what a node before it clips."""
    if edit.op(last) in ("Mul", "Div", "Add", "Sub"):
        found = with_constant(last)
        return found is not None and sole_maker(e, last.inputs[found[0]], *_CLIPS) is not None
    return edit.op(last) in _CLIPS


def _ramp(e: edit.Edit, last: gs.Node, opset: int) -> _Found | None:
    """Of the ramps that end at a node, the longest that is a HardSigmoid, a Clip or a Relu."""
    dtype = _dtype(last)
    for ramp in ramps(e, last):
        if (ramp.a, ramp.b) == (1.0, 0.0):
            if (ramp.low, ramp.high) == (0.0, inf) and (len(ramp.nodes) > 1 or edit.op(last) == "Max"):
                return _Found("Relu", ramp.nodes, [("Relu", [ramp.x], {})])
            if len(ramp.nodes) > 1 and isfinite(ramp.low) and isfinite(ramp.high):
                return _Found("Clip", ramp.nodes, [_clip(e, last, ramp, opset)])
        elif len(ramp.nodes) > 1 and ramp.a > 0 and 0 < ramp.b < 1 and ramp.spans(0.0, 1.0) and dtype != "float64":
            operator = ("HardSigmoid", [ramp.x], {"alpha": ramp.a, "beta": ramp.b})
            return _Found("HardSigmoid", ramp.nodes, [operator])
    return None


def _clip(e: edit.Edit, last: gs.Node, ramp: Ramp, opset: int) -> tuple[str, list[gs.Tensor | None], dict[str, Any]]:
    if opset < _CLIP_INPUTS:
        return "Clip", [ramp.x], {"min": ramp.low, "max": ramp.high}
    name, dtype = last.outputs[0].name, last.outputs[0].dtype
    low = e.constant(f"{name}_min", np.array(ramp.low, dtype))
    high = e.constant(f"{name}_max", np.array(ramp.high, dtype))
    return "Clip", [ramp.x, low, high], {}


def _hard_swish(e: edit.Edit, whole: Product, opset: int) -> _Found | None:
    """Hard swish: a product of x with a ramp of x that, with the factor, runs from 0 to 1."""
    if len(whole.above) != 2 or whole.below or _dtype(whole.nodes[0]) == "float64" or whole.factor < 0:
        return None
    for x, other in (whole.above, whole.above[::-1]):
        last = sole_maker(e, other)
        ramp = next(ramps(e, last, stop=x), None) if last is not None else None
        if ramp is None or not isfinite(ramp.low) or not isfinite(ramp.high):
            continue
        ramp, nodes = ramp.scaled(whole.factor), [*whole.nodes, *ramp.nodes]
        if not (ramp.spans(0.0, 1.0) and close(ramp.a, 1 / 6, x.dtype) and close(ramp.b, 0.5, x.dtype)):
            raise NoMatch("it is like a hard swish, but with other constants")
        if opset >= _HARD_SWISH:
            return _Found("HardSwish", nodes, [("HardSwish", [x], {})])
        if len(nodes) > 2:
            gate = ("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})
            return _Found("HardSwish", nodes, [gate, ("Mul", [x, None], {})])
    return None


def _sigmoid(e: edit.Edit, whole: Product) -> _Found | None:
    """Sigmoid: something divided by 1 + exp(-x)."""
    if len(whole.below) != 1 or len(whole.above) > 1 or not close(whole.factor, 1.0, whole.below[0].dtype):
        return None
    add = sole_maker(e, whole.below[0], "Add")
    found = None if add is None else with_constant(add)
    if add is None or found is None or scalar_beside(found[1], add.inputs[found[0]]) != 1.0:
        return None
    exp = sole_maker(e, add.inputs[found[0]], "Exp")
    minus = None if exp is None else sole_maker(e, exp.inputs[0], "Neg", "Mul", "Div")
    ramp = None if minus is None else next(ramps(e, minus), None)
    if exp is None or ramp is None or len(ramp.nodes) != 1 or (ramp.a, ramp.b) != (-1.0, 0.0):
        return None
    nodes = [*whole.nodes, add, exp, *ramp.nodes]
    if not whole.above:
        return _Found("Sigmoid", nodes, [("Sigmoid", [ramp.x], {})])
    what = "SiLU" if whole.above[0] is ramp.x else "Sigmoid"
    return _Found(what, nodes, [("Sigmoid", [ramp.x], {}), ("Mul", [whole.above[0], None], {})])


def _gelu(e: edit.Edit, whole: Product, opset: int) -> _Found | None:
    """Gelu: a product of x, 1/2 and 1 + f(x)."""
    if len(whole.above) != 2 or whole.below or _dtype(whole.nodes[0]) == "float64":
        return None
    for x, other in (whole.above, whole.above[::-1]):
        last = sole_maker(e, other, "Add")
        ramp = None if last is None else next(ramps(e, last), None)
        if ramp is None or (ramp.low, ramp.high) != (-inf, inf):
            continue
        ramp = ramp.scaled(whole.factor)
        function = sole_maker(e, ramp.x, "Erf", "Tanh")
        if function is None or not (close(ramp.a, 0.5, x.dtype) and close(ramp.b, 0.5, x.dtype)):
            continue
        exact = edit.op(function) == "Erf"
        inner = _erf_argument(e, function, x) if exact else _tanh_argument(e, function, x)
        if inner is None:
            continue
        if opset < _GELU:
            raise NoMatch(f"it is a Gelu, which ONNX has from opset {_GELU}")
        attributes = {} if exact else {"approximate": "tanh"}
        return _Found("Gelu", [*whole.nodes, *ramp.nodes, function, *inner], [("Gelu", [x], attributes)])
    return None


def _erf_argument(e: edit.Edit, function: gs.Node, x: gs.Tensor) -> Sequence[gs.Node] | None:
    """The nodes between x and a function of x / sqrt(2)."""
    last = sole_maker(e, function.inputs[0])
    ramp = None if last is None else next(ramps(e, last, stop=x), None)
    if ramp is None or (ramp.low, ramp.high, ramp.b) != (-inf, inf, 0.0) or not close(ramp.a, sqrt(0.5), x.dtype):
        return None
    return ramp.nodes


def _tanh_argument(e: edit.Edit, function: gs.Node, x: gs.Tensor) -> Sequence[gs.Node] | None:
    """The nodes between x and a function of sqrt(2/pi) (x + 0.044715 x^3)."""
    last = sole_maker(e, function.inputs[0], "Mul", "Div")
    outer = None if last is None else product(e, last)
    if outer is None or outer.below or not close(outer.factor, sqrt(2 / pi), x.dtype):
        return None
    if len(outer.above) == 1:
        add = sole_maker(e, outer.above[0], "Add")
        cubic = None if add is None else _cubic(e, add, x)
        return None if add is None or cubic is None else [*outer.nodes, add, *cubic]
    if len(outer.above) == 2 and any(tensor is x for tensor in outer.above):
        rest = outer.above[1] if outer.above[0] is x else outer.above[0]
        add = sole_maker(e, rest, "Add")
        found = None if add is None else with_constant(add)
        if add is None or found is None or scalar_beside(found[1], add.inputs[found[0]]) != 1.0:
            return None
        square = sole_maker(e, add.inputs[found[0]])
        term = None if square is None else power(e, square, x)
        if term is not None and term[1] == 2 and close(term[0], 0.044715, x.dtype):
            return [*outer.nodes, add, *term[2]]
    return None


def _cubic(e: edit.Edit, add: gs.Node, x: gs.Tensor) -> Sequence[gs.Node] | None:
    """Of x + 0.044715 x^3 the nodes of the second term."""
    for first, second in both_orders(add):
        last = sole_maker(e, second)
        term = None if first is not x or last is None else power(e, last, x)
        if term is not None and term[1] == 3 and close(term[0], 0.044715, x.dtype):
            return term[2]
    return None


def _leaky_relu(e: edit.Edit, last: gs.Node) -> _Found | None:
    """LeakyRelu: the larger one of x and a x."""
    if len(last.inputs) != 2:
        return None
    for x, other in both_orders(last):
        node = sole_maker(e, other, "Mul")
        found = None if node is None else with_constant(node)
        if node is None or found is None or node.inputs[found[0]] is not x:
            continue
        alpha = scalar_beside(found[1], x)
        if alpha is not None and 0 < alpha < 1:
            return _Found("LeakyRelu", [last, node], [("LeakyRelu", [x], {"alpha": alpha})])
    return None
