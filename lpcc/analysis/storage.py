"""What the weights of a network take in its file: bytes by type, and bits per weight as they really are.

A weight of few bits may be a constant of few bits, several in a byte, or a larger one that holds it; its scale, its
zero point and the tables that it is looked up in are stored too. `Storage` has all of that as the file has it, and
beside it what it would take if each code had just the bits that tell those that occur apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.decoding import codes, makers
from lpcc.analysis.macs import CONVS, PRODUCTS, RECURRENT
from lpcc.analysis.shapes import bits, constant_of


@dataclass(frozen=True)
class LayerStorage:
    """The weights of one layer, its bias apart: how many there are, and the bits of what they are stored in.

    `stored_bits` are those of all constants that the weights are computed from, scales included; what other layers read
    too counts for the first. `ideal_bits` has the codes in as few bits as tell those that occur apart.
    """

    name: str
    weights: int
    stored_bits: int
    ideal_bits: int
    dtype: str
    """Type of the constant that holds them; the narrowest where there are several."""

    @property
    def effective_bits(self) -> float:
        """Bits of a weight in the file."""
        return self.stored_bits / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Storage:
    """All constants of a graph, and the layers with weights among them.

    `by_type` has the bytes of all constants, packed where their type is, by name of the type, the largest first.
    """

    by_type: dict[str, int]
    layers: tuple[LayerStorage, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all constants."""
        return sum(self.by_type.values())

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def effective_bits(self) -> float:
        """Bits of a weight in the file, on average; 0 where there is none."""
        return sum(layer.stored_bits for layer in self.layers) / self.weights if self.weights else 0.0

    @property
    def ideal_bits(self) -> float:
        """Bits of a weight, on average, if codes had just the bits that they need."""
        return sum(layer.ideal_bits for layer in self.layers) / self.weights if self.weights else 0.0


def storage(graph: gs.Graph) -> Storage:
    """What the weights of a graph and of those nested in it take. Shared ones count once."""
    everything: dict[int, gs.Constant] = {}
    layers = []
    counted: set[int] = set()
    for node in edit.nodes(graph):
        for tensor in node.inputs:
            constant = constant_of(tensor)
            if constant is not None and tensor.name:
                everything[id(constant)] = constant
        for tensor in _weights(node):
            if id(tensor) not in counted:
                counted.add(id(tensor))
                found = _layer(node, tensor, counted)
                layers += [] if found is None else [found]
    by_type: dict[str, int] = {}
    for constant in everything.values():
        name = np.dtype(constant.dtype).name
        by_type[name] = by_type.get(name, 0) + _bits(constant) // 8
    return Storage(dict(sorted(by_type.items(), key=lambda entry: -entry[1])), tuple(layers))


def _weights(node: gs.Node) -> Iterator[gs.Tensor]:
    """The weights of a layer: constants, or tensors computed from constants."""
    op = edit.op(node)
    places = [CONVS.get(op, PRODUCTS.get(op))] if op in CONVS or op in PRODUCTS else []
    places += [1, 2] if op in RECURRENT else []
    for place in places:
        tensor = edit.inp(node, place) if place is not None else None
        if tensor is not None and (constant_of(tensor) is not None or makers(tensor) is not None):
            yield tensor


def _layer(node: gs.Node, tensor: gs.Tensor, counted: set[int]) -> LayerStorage | None:
    """The storage of a layer; None where all that its weights are made of counts for another layer already."""
    sources: dict[int, gs.Constant] = {}
    own = constant_of(tensor)
    if own is not None:
        sources[id(own)] = own
    for maker in makers(tensor) or ():
        for source in maker.inputs:
            constant = constant_of(source)
            if constant is not None and source.name and id(constant) not in counted:
                sources[id(constant)] = constant
    if not sources:
        return None
    counted.update(sources)
    held = [constant for constant in codes(tensor) if id(constant) in sources] or list(sources.values())
    stored = sum(map(_bits, sources.values()))
    spared = sum(_bits(constant) - prod(constant.shape) * _needed(constant) for constant in held)
    return LayerStorage(
        name=edit.label(node),
        weights=_count(tensor),
        stored_bits=stored,
        ideal_bits=stored - spared,
        dtype=np.dtype(min(held, key=bits).dtype).name,
    )


def _count(tensor: gs.Tensor) -> int:
    shape = tensor.shape
    if shape is not None and all(isinstance(dim, int) for dim in shape):
        return prod(shape)
    return sum(prod(constant.shape) for constant in codes(tensor))


def _bits(constant: gs.Constant) -> int:
    """Bits of a constant in the file, which ends with a whole byte."""
    count: int = prod(constant.shape)
    return -(-count * bits(constant) // 8) * 8


def _needed(constant: gs.Constant) -> int:
    """Bits that tell the different integers of a constant apart; all of them for other types."""
    if "int" not in np.dtype(constant.dtype).name:
        return bits(constant)
    values = np.asarray(constant.values)
    distinct = np.unique(values if values.dtype.kind in "iu" else values.astype(np.int8))
    return max(1, (len(distinct) - 1).bit_length())
