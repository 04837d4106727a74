"""Which constants of a graph are its weights: what training may change, and what it must leave alone.

Trained are the operands of layers: filters, matrices and biases of Conv, ConvTranspose, Gemm, MatMul, GRU, LSTM and
RNN; scales and offsets of norms; slopes of PRelu; and the constant that an Add puts directly behind a layer as its
bias, one number for each output channel. They count also where they reach their layer through Identity, Transpose,
Reshape, Cast and the like. Everything else is the network's arithmetic: means and deviations that images are normalised
with, anchors of detection heads, exponents, sizes. So is the filter 0, 1, 2, ... by which some detection heads take the
expectation of a distribution over distances.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.train.network.constants import Place
from lpcc.train.tensors import is_real

_DECAYING: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "GRU": (1, 2),
    "LSTM": (1, 2),
    "RNN": (1, 2),
}
"""Inputs of operators that are filters and matrices."""

_OTHER: Mapping[str, tuple[int, ...]] = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "DeformConv": (3,),
    "Gemm": (2,),
    "GRU": (3,),
    "LSTM": (3, 7),
    "RNN": (3,),
    "BatchNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
"""Inputs of operators that are biases, scales, offsets and slopes."""

_BIASED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))

CARRIERS = frozenset(("Identity", "Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Flatten"))
"""Operators through which a weight may reach its layer: they move its numbers and change none."""


@dataclass(frozen=True)
class Weight:
    """A constant that is trained."""

    name: str
    """Its name among the graph's constants."""

    place: Place

    decays: bool
    """Whether weight decay applies to it: a filter or matrix. Where a weight serves as both, it does."""


def weights(graph: gs.Graph, places: Mapping[str, Place], given: Container[str] = ()) -> dict[str, Weight]:
    """The trained constants of a graph and its subgraphs, by their names in `places`.

    `given` are names of tensors whose values come from elsewhere; what lies behind those is not looked at.
    """
    names = {id(place.tensor): name for name, place in places.items()}
    found: dict[str, Weight] = {}
    trained: set[int] = set()

    def add(tensor: gs.Tensor | None, decays: bool) -> bool:
        origin = source(tensor, given)
        name = None if origin is None else names.get(id(origin))
        if name is None or not is_real(places[name].dtype):
            return False
        decays = decays or (name in found and found[name].decays)
        found[name] = Weight(name, places[name], decays)
        return True

    for node in edit.nodes(graph):
        op = edit.op(node)
        for index in _DECAYING.get(op, ()):
            tensor = edit.inp(node, index)
            if tensor is not None and not _counts(source(tensor, given), places, names):
                from_latent = _origin_name(tensor, given) in given
                if add(tensor, _rank(source(tensor, given), places, names) > 1) or from_latent:
                    trained.update(map(id, node.outputs))
        for index in _OTHER.get(op, ()):
            add(edit.inp(node, index), decays=False)
    for node, bias in _added(graph, trained):
        origin = source(bias, given)
        if origin is not None and id(origin) in names and _is_per_channel(node, bias, places[names[id(origin)]]):
            add(bias, decays=False)
    return found


def source(tensor: gs.Tensor | None, given: Container[str] = ()) -> gs.Tensor | None:
    """The tensor that a weight starts as, before it is moved; None where a given value comes first."""
    while tensor is not None and tensor.name not in given:
        maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
        if maker is None or edit.op(maker) not in CARRIERS:
            return tensor
        tensor = edit.inp(maker, 0)
    return None


def _origin_name(tensor: gs.Tensor, given: Container[str]) -> str:
    """Name of the given tensor from which `tensor` is moved; empty where there is none."""
    found: gs.Tensor | None = tensor
    while found is not None and found.name not in given:
        maker = found.inputs[0] if len(found.inputs) == 1 else None
        found = edit.inp(maker, 0) if maker is not None and edit.op(maker) in CARRIERS else None
    return "" if found is None else str(found.name)


def _rank(origin: gs.Tensor | None, places: Mapping[str, Place], names: Mapping[int, str]) -> int:
    name = names.get(id(origin))
    return 0 if name is None else len(places[name].shape)


def _counts(origin: gs.Tensor | None, places: Mapping[str, Place], names: Mapping[int, str]) -> bool:
    """Whether a constant is 0, 1, 2, ...: no weight, but the values of a distribution whose mean is taken."""
    name = names.get(id(origin))
    if name is None or not is_real(places[name].dtype):
        return False
    shape = places[name].shape
    if max(shape, default=0) < 3 or np.prod(shape) != max(shape):
        return False
    values = np.asarray(places[name].values, dtype=np.float64).reshape(-1)
    return bool(np.array_equal(values, np.arange(values.size)))


def _added(graph: gs.Graph, trained: Container[int]) -> Iterator[tuple[gs.Node, gs.Tensor]]:
    """Layers with weights whose result goes into an Add, with the other operand of that."""
    for node in edit.nodes(graph):
        if edit.op(node) != "Add":
            continue
        for layer, bias in (node.inputs, reversed(node.inputs)):
            maker = layer.inputs[0] if len(layer.inputs) == 1 else None
            if maker is not None and edit.op(maker) in _BIASED and id(layer) in trained:
                yield maker, bias


def _is_per_channel(layer: gs.Node, bias: gs.Tensor, stored: Place) -> bool:
    """Whether a constant has one number for each output channel of a layer, along the axis of the channels."""
    shape = stored.shape if bias is stored.tensor else bias.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        return False
    weight, axis = layer.inputs[1].shape, -1
    if edit.op(layer) in ("Conv", "ConvTranspose") and weight is not None:
        axis = 1 - len(weight)  # the spatial axes come after that of the channels
    result = layer.outputs[0].shape
    channels = None if result is None or len(result) < -axis else result[axis]
    count = int(np.prod(shape))
    per_channel = count > 1 if channels is None else channels == count
    return len(shape) >= -axis and shape[axis] == count and per_channel
