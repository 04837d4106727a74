"""The tensors of a graph that training changes but that it stores in few bits, with what stands behind them.

Found are scales of activations, integer weights and biases of layers, and weights in the formats of
`quantize-weights`. Zero points stay, and with them where the range of a Relu begins. What is not recognised stays what
it is, with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.decoding import makers
from lpcc.analysis.packed import Part, parts, values
from lpcc.analysis.quantized import LAYERS
from lpcc.analysis.shapes import bind
from lpcc.train.latents.decoders import Unknown, recognise
from lpcc.train.latents.integer_weights import Bias, Integers, IntegerWeight, least_steps, limits_of
from lpcc.train.latents.latent import Array, Latent
from lpcc.train.latents.scale import Scale
from lpcc.train.latents.ties import ends_of, scale_of, ties
from lpcc.train.operators.rounding import spread
from lpcc.train.tensors import array_of, tensor_of

__all__ = ["Found", "Latent", "find", "latents_of"]

_RELATED = 0.5
"""Least cosine of weights before and after rounding; it is 0.8 for the signs of a normal distribution."""
_CARRIES = frozenset(("Cast", "Concat", "Gather"))


@dataclass
class Found:
    """What was found in a graph."""

    latents: dict[str, Latent] = field(default_factory=dict)
    """By the name of the tensor whose value they give: a scale, or what decodes weights or a bias."""
    frozen: dict[str, str] = field(default_factory=dict)
    """Why others are not trained, by the name of the tensor."""


def latents_of(graph: gs.Graph, float_graph: gs.Graph | None = None) -> dict[str, Latent]:
    """The latents of a graph by the names of the tensors that they stand for; see `find`."""
    return find(graph, float_graph).latents


def find(graph: gs.Graph, float_graph: gs.Graph | None = None) -> Found:
    """The latents of an annotated graph and of those nested in it.

    `float_graph` is the graph before its weights were rounded, with the same names of nodes: its weights are where
    training starts from, as far as they are rounded to those of the graph.
    """
    found = Found()
    shapes = bind(graph)
    scales: dict[str, Scale] = {}
    for tie in ties(graph):
        scale = scale_of(tie, shapes)
        scales.update(dict.fromkeys(tie.names, scale))
        if tie.reason is not None:
            found.frozen.update(dict.fromkeys(tie.names, tie.reason))
        else:
            found.latents.update(dict.fromkeys(tie.names, scale))
            found.latents.update(ends_of(tie, scale))
    starts = _starts(float_graph)
    layers = [node for node in edit.nodes(graph) if edit.op(node) in LAYERS]
    _integers(_sets(layers), scales, starts, found)
    _biases(layers, scales, found)
    _formats(layers, scales, starts, found)
    ambiguous = _ambiguous(graph)
    for name, latent in list(found.latents.items()) if ambiguous else ():
        if not ambiguous.isdisjoint({name, *latent.stored()}):
            del found.latents[name]
            found.frozen[name] = "another tensor has its name, in another branch"
    return found


@dataclass(eq=False)
class _Set:
    """Integer constants, and the nodes that dequantise them for layers."""

    dequantizers: list[gs.Node] = field(default_factory=list)
    layers: list[gs.Node] = field(default_factory=list)

    @property
    def split(self) -> int:
        """The axis along which the integers lie in several constants."""
        return 0 if parts(self.dequantizers[0].inputs[0], 0) else 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """The constants."""
        return parts(self.dequantizers[0].inputs[0], self.split)

    @property
    def scale(self) -> gs.Tensor:
        """Their scale."""
        return self.dequantizers[0].inputs[1]

    def obstacle(self) -> str | None:
        """Why they cannot be trained."""
        first = self.dequantizers[0]
        for other in self.dequantizers[1:]:
            if [id(t) for t in other.inputs[1:]] != [id(t) for t in first.inputs[1:]] or other.attrs != first.attrs:
                return "the same integers are read with several scales"
        scale, zero = edit.const(first.inputs[1]), edit.const(edit.inp(first, 2))
        if scale is None or (zero is None and edit.inp(first, 2) is not None):
            return "its scale or zero point is not constant"
        if scale.dtype != np.float32 or not (np.isfinite(scale).all() and (scale > 0).all()):
            return "its scale is not a positive float32"
        if any(edit.op(user) not in rules.DEQUANTIZE for user in first.inputs[1].outputs):
            return "its scale is used as a number, too"
        own = {id(node) for node in self.dequantizers}
        if any(id(node) not in own for part in self.parts for node in _ends(part.stored)):
            return "its integers are used elsewhere, too"
        return None


def _sets(layers: Iterable[gs.Node]) -> list[_Set]:
    """The integer weights of layers, those of the same constants together."""
    found: dict[tuple[int, ...], _Set] = {}
    seen: set[int] = set()
    for layer in layers:
        node = _maker(edit.inp(layer, 1))
        if node is None or edit.op(node) not in rules.DEQUANTIZE:
            continue
        stored = parts(node.inputs[0], 0) or parts(node.inputs[0], 1)
        if stored:
            own = found.setdefault(tuple(id(part.stored) for part in stored), _Set())
            own.layers.append(layer)
            if id(node) not in seen:
                seen.add(id(node))
                own.dequantizers.append(node)
    return list(found.values())


def _integers(sets: list[_Set], scales: dict[str, Scale], starts: Mapping[str, Array], found: Found) -> None:
    trained = []
    for own in sets:
        reason = own.obstacle()
        names = [str(node.outputs[0].name) for node in own.dequantizers]
        if reason is None:
            trained.append(own)
        else:
            found.frozen.update(dict.fromkeys(names, reason))
    largest = _largest(trained)
    counts: dict[str, int] = {}
    floors: dict[str, Array | float] = {}
    for own in trained:
        name = str(own.scale.name)
        counts[name] = counts.get(name, 0) + values(own.parts, own.split).size
        floors[name] = np.maximum(floors.get(name, 0.0), _floor(own))
    for own in trained:
        integers = _described(own, largest)
        name = str(own.scale.name)
        if name not in scales:
            scale = np.asarray(own.scale.values)
            greatest = float((integers.high - integers.zero).max())
            scales[name] = Scale([name], scale, counts[name], greatest, floor=floors[name])
        steps = array_of(
            spread(tensor_of(np.asarray(own.scale.values)), integers.values.shape, integers.axis, integers.block),
            np.float32,
        )
        start = _start(own.layers, (integers.values - integers.zero) * steps, starts)
        latent = IntegerWeight(str(own.dequantizers[0].outputs[0].name), integers, scales[name], start)
        found.latents.update((str(node.outputs[0].name), latent) for node in own.dequantizers)


def _described(own: _Set, largest: int) -> Integers:
    node = own.dequantizers[0]
    integers = values(own.parts, own.split).astype(np.int64)
    low, high = limits_of(own.parts, own.split, integers, largest)
    axis, block = int(edit.attr(node, "axis", 1)), int(edit.attr(node, "block_size", 0))
    axis %= integers.ndim
    zero = edit.const(edit.inp(node, 2))
    zeros = np.zeros((), np.float32) if zero is None else np.asarray(zero).astype(np.float32)
    zeros = array_of(spread(tensor_of(zeros), integers.shape, axis, block), np.float32)
    return Integers(own.parts, own.split, integers, low, high, zeros, axis, block)


def _largest(sets: list[_Set]) -> int:
    """The greatest 8-bit integer of a graph's weights: 64 where all keep to 7 bits, else 127."""
    stored = [part.stored for own in sets for part in own.parts if np.dtype(part.stored.dtype) == np.int8]
    most = max((int(np.abs(np.asarray(s.values).astype(np.int64)).max(initial=0)) for s in stored), default=127)
    return 64 if most <= 64 else 127


def _floor(own: _Set) -> Array | float:
    """The least scales with which the biases of the layers fit into int32."""
    floor: Array | float = 0.0
    for layer in own.layers:
        bias, source = _maker(edit.inp(layer, 2)), _maker(edit.inp(layer, 0))
        if bias is None or source is None or edit.op(bias) not in rules.DEQUANTIZE:
            continue
        integers, steps = edit.const(bias.inputs[0]), edit.const(bias.inputs[1])
        scale = edit.const(source.inputs[1]) if edit.op(source) in rules.DEQUANTIZE else None
        if (
            integers is not None
            and steps is not None
            and np.broadcast_shapes(integers.shape, steps.shape) == integers.shape
        ):
            axis = 0 if np.asarray(own.scale.values).size > 1 else None
            floor = np.maximum(floor, least_steps(np.asarray(integers * steps.astype(np.float64)), scale, axis))
    shape = np.asarray(own.scale.values).shape
    return floor if np.shape(floor) in ((), shape) else 0.0


def _biases(layers: Iterable[gs.Node], scales: Mapping[str, Scale], found: Found) -> None:
    for layer in layers:
        node = _maker(edit.inp(layer, 2))
        if node is None or edit.op(node) not in rules.DEQUANTIZE or str(node.outputs[0].name) in found.latents:
            continue
        name = str(node.outputs[0].name)
        integers, steps, zero = (edit.const(edit.inp(node, i)) for i in range(3))
        is_plain = zero is None or not np.asarray(zero).astype(np.int64).any()
        if integers is None or integers.dtype != np.int32 or steps is None or steps.dtype != np.float32 or not is_plain:
            found.frozen[name] = "its bias is no int32 constant with a scale in float32"
        elif len(node.inputs[0].outputs) != 1 or len(node.inputs[1].outputs) != 1:
            found.frozen[name] = "its bias is used elsewhere, too"
        elif np.broadcast_shapes(integers.shape, steps.shape) != integers.shape or steps.ndim > 1:
            found.frozen[name] = "its bias has scales in a shape that is not known"
        else:
            names = str(node.inputs[0].name), str(node.inputs[1].name)
            found.latents[name] = Bias(name, names, integers, steps, _factors(layer, steps, scales))


def _factors(layer: gs.Node, steps: Array, scales: Mapping[str, Scale]) -> list[Scale]:
    """The scales of a layer's input and weights, if that of its bias is their product."""
    found = []
    for index in (0, 1):
        node = _maker(edit.inp(layer, index))
        scale = scales.get(str(node.inputs[1].name)) if node is not None and edit.op(node) in rules.DEQUANTIZE else None
        if scale is None:
            return []
        found.append(scale)
    product = array_of(found[0](), np.float32) * array_of(found[1](), np.float32)
    return (
        found
        if product.size == steps.size and np.allclose(product.reshape(steps.shape), steps, rtol=1e-5, atol=0)
        else []
    )


def _formats(layers: Iterable[gs.Node], scales: dict[str, Scale], starts: Mapping[str, Array], found: Found) -> None:
    readers: dict[int, list[gs.Node]] = {}
    tensors: dict[int, gs.Tensor] = {}
    for layer in layers:
        tensor = edit.inp(layer, 1)
        node = _maker(tensor)
        if tensor is None or node is None or edit.op(node) in rules.DEQUANTIZE or edit.op(node) == "Constant":
            continue
        readers.setdefault(id(tensor), []).append(layer)
        tensors[id(tensor)] = tensor
    for key, tensor in tensors.items():
        decoder = makers(tensor)
        if decoder is None or not any(edit.op(node) == "Cast" for node in decoder):
            continue
        name = str(tensor.name)
        try:
            coded = recognise(tensor)
        except Unknown as why:
            found.frozen[name] = str(why)
            continue
        for constant in coded.scales:
            values_ = np.asarray(constant.values)
            scales[str(constant.name)] = Scale([str(constant.name)], values_, coded.values.size, coded.greatest)
        start = _start(readers[key], coded.values, starts)
        found.latents[name] = coded.build(name, start, [scales[str(constant.name)] for constant in coded.scales])


def _starts(graph: gs.Graph | None) -> dict[str, Array]:
    """Float weights by the name of their layer, with the factor of a Gemm multiplied in."""
    found: dict[str, Array] = {}
    for node in edit.nodes(graph) if graph is not None else ():
        weight = edit.const(edit.inp(node, 1)) if edit.op(node) in LAYERS else None
        if weight is not None and weight.dtype == np.float32:
            found[edit.label(node)] = np.asarray(weight) * np.float32(edit.attr(node, "alpha", 1.0))
    return found


def _start(layers: Iterable[gs.Node], rounded: Array, starts: Mapping[str, Array]) -> Array | None:
    """The weights of a layer before they were rounded; None where they are not known, or were quite different."""
    for layer in layers:
        weight = starts.get(edit.label(layer))
        if weight is None:
            continue
        weight = weight / np.float32(edit.attr(layer, "alpha", 1.0))
        for candidate in (weight, weight.T):
            if candidate.shape == rounded.shape and _cosine(candidate, rounded) > _RELATED:
                return np.ascontiguousarray(candidate)
    return None


def _cosine(first: Array, second: Array) -> float:
    norms = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return float(np.vdot(first, second)) / norms if norms else 1.0


def _ends(stored: gs.Tensor) -> Iterator[gs.Node]:
    """The nodes that read integers behind Cast, Concat and Gather."""
    for node in stored.outputs:
        if edit.op(node) in _CARRIES and (edit.op(node) != "Gather" or node.inputs[0] is stored):
            yield from _ends(node.outputs[0])
        else:
            yield node


def _ambiguous(graph: gs.Graph) -> set[str]:
    """Names that different tensors have in branches of control flow: latents are told apart by name."""
    if len(list(edit.graphs(graph))) == 1:
        return set()
    tensors = {id(t): str(t.name) for node in edit.nodes(graph) for t in (*node.inputs, *node.outputs) if t.name}
    count = Counter(tensors.values())
    return {name for name, number in count.items() if number > 1}


def _maker(tensor: gs.Tensor | None) -> gs.Node | None:
    return tensor.inputs[0] if tensor is not None and len(tensor.inputs) == 1 else None
