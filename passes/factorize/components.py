"""Rank components: channels with nothing but linear maps around them, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups, Group, Layer
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.match import NoMatch, is_float
from lpcc.passes.reconstruct import by_result

Array = np.ndarray[Any, Any]
Number = TypeVar("Number", bound=Any)

_LINEAR: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Components:
    """The channels between two layers whose product is a matrix of their rank.

    One layer makes them, one sums over them, and between the two is nothing but batch norms, identities and depthwise
    convolutions: what `factorize` leaves behind, whoever made it.
    """

    group: Group
    layers: tuple[str, ...]
    """Names of the nodes that make, convolve and read them."""
    tensor: str
    """What the last layer reads."""
    rank: int
    """Of that tensor: how many axes."""
    axis: int
    """Of that tensor, along which the components stand."""
    places: Array
    """Which component, as an index into `group.channels`, is at each place of the axis."""
    reader: str
    """The tensor that the last layer makes."""
    strength: Array
    """Norm of the weights that the last layer has for the component at each place, (places,)."""

    def __len__(self) -> int:
        return len(self.group)

    @property
    def name(self) -> str:
        """The node that reads them, which has the name of the layer that was factorised."""
        return self.layers[-1]


def components(
    graph: gs.Graph, found: ChannelGroups, skip: Collection[str] = ()
) -> tuple[list[Components], Mapping[str, str]]:
    """All of a graph whose channels are `found`, in the order of the graph; why others of their shape are none.

    Those with a layer of `skip` are left out.
    """
    nodes, outputs = by_result(graph), {id(tensor) for tensor in graph.outputs}
    known: list[Components] = []
    refused: dict[str, str] = {}
    for group in found.groups:
        dense = [layer for layer in group.makers if layer.reads is not None]
        if len(dense) != 1 or len(group.readers) != 1 or group.readers[0].op not in _LINEAR:
            continue
        maker, reader = dense[0], group.readers[0]
        if maker.op not in _LINEAR or any(layer.name in skip for layer in (*group.makers, reader)):
            continue
        tensor = _between(nodes[maker.output], nodes[reader.output], group, outputs)
        if tensor is None:
            continue
        try:
            known.append(_components(found, group, reader, nodes[reader.output], tensor))
        except NoMatch as why:
            refused[reader.name] = str(why)
    return known, refused


def _between(maker: gs.Node, reader: gs.Node, group: Group, outputs: Collection[int]) -> gs.Tensor | None:
    """What `reader` reads, if all between the two treats each channel alone and in a linear way; else None."""
    depthwise = {layer.output for layer in group.makers if layer.reads is None}
    tensor = maker.outputs[0]
    while id(tensor) not in outputs and len(tensor.outputs) == 1:
        node = tensor.outputs[0]
        if node.inputs[0] is not tensor:
            return None
        if node is reader:
            return tensor
        if edit.op(node) not in ("BatchNormalization", "Identity") and node.outputs[0].name not in depthwise:
            return None
        tensor = node.outputs[0]
    return None


def _components(found: ChannelGroups, group: Group, reader: Layer, node: gs.Node, tensor: gs.Tensor) -> Components:
    """Raises NoMatch where what reads them is not as it should be."""
    if group.pinned is not None:
        raise NoMatch(group.pinned)
    weight = edit.inp(node, 1)
    if not isinstance(weight, gs.Constant) or not is_float(weight.dtype) or len(weight.outputs) != 1:
        raise NoMatch("the weights that read its components are no constant of its own of a float type")
    axis, line = _axis(found, tensor.name, group)
    own, read = _axis(found, weight.name, group)
    others = tuple(at for at in range(len(weight.shape)) if at != own)
    each = np.square(np.asarray(weight.values).astype(np.float64)).sum(axis=others)
    strength = np.array([each[read == channel].sum() for channel in line])
    layers = (*(layer.name for layer in group.makers), reader.name)
    places = np.searchsorted(group.channels, line)
    rank = len(found.labels[tensor.name])
    return Components(group, layers, tensor.name, rank, axis, places, reader.output, np.sqrt(strength))


def _axis(found: ChannelGroups, name: str, group: Group) -> tuple[int, Array]:
    """The axis of a tensor along which the channels of a group stand, and which is where. Raises NoMatch: not alone."""
    for axis, line in enumerate(found.labels[name]):
        if line is not None and np.isin(line, group.channels).all():
            return axis, line
    raise NoMatch("its components share a tensor with other channels")


@dataclass(frozen=True, eq=False)
class Cost:
    """Share of the multiply-accumulates of a network that is left with some of its rank components.

        share(o) = sum_l m_l prod_{g at l} o_g / sum_l m_l

    over layers l with m_l multiply-accumulates, which are proportional to the open share o_g of each group of
    components g that they read, make, or convolve one by one.
    """

    total: int
    """Multiply-accumulates of the whole network."""
    terms: tuple[tuple[float, tuple[int, ...]], ...]
    """Share of the total of layers that have the same groups, and which these are."""

    @classmethod
    def of(cls, graph: gs.Graph, found: ChannelGroups, known: Sequence[Components]) -> Cost:
        """The cost of a graph with types; open dimensions count as in `lpcc.analysis.shapes.bind`."""
        number = np.full(found.count, -1)
        for at, one in enumerate(known):
            number[one.group.channels] = at
        layers = {layer.output: layer for layer in found.layers}
        counted = macs(graph, bind(graph))
        terms: dict[tuple[int, ...], int] = {}
        for node in edit.nodes(graph):
            if id(node) in counted:
                layer = layers.get(node.outputs[0].name)
                sides = () if layer is None else (layer.reads, layer.makes)
                at_it = {int(number[line[0]]) for line in sides if line is not None and len(line)}
                key = tuple(sorted(at_it - {-1}))
                terms[key] = terms.get(key, 0) + counted[id(node)]
        total = max(1, sum(terms.values()))
        return cls(total, tuple((count / total, key) for key, count in sorted(terms.items())))

    def __call__(self, shares: Sequence[Number]) -> Number:
        """What is left of all, where such a share of each group of components is; of numbers or tensors."""
        left: Any = 0.0
        for weight, own in self.terms:
            product: Any = weight
            for at in own:
                product = product * shares[at]
            left = left + product
        result: Number = left
        return result

    @property
    def fixed(self) -> float:
        """Share of layers without components."""
        return sum(weight for weight, own in self.terms if not own)


def kept_components(
    scores: Sequence[Array], allowed: Sequence[Sequence[int]], left: Callable[[Sequence[int]], float], goal: float
) -> list[int]:
    """How many components of each group stay: those whose score is above one level for all, the lowest that will do.

    Counts are the nearest of those `allowed` (ascending; at the first of each `left` is at most `goal`). Where that
    leaves room, groups take a step more while they fit, first the one whose next component has the highest score.
    """

    def counts(level: float) -> list[int]:
        above = [int((own > level).sum()) for own in scores]
        return [min(some, key=lambda n: (abs(n - count), n)) for some, count in zip(allowed, above, strict=True)]

    levels = [-np.inf, *np.unique(np.concatenate(scores)).tolist()]
    low, high = 0, len(levels) - 1  # at the highest level nothing is above it
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if left(counts(levels[middle])) <= goal else (middle + 1, high)
    found = counts(levels[low])
    order = [np.sort(own)[::-1] for own in scores]
    open_ = set(range(len(found)))
    while open_:
        more = [at for at in open_ if found[at] < allowed[at][-1]]
        open_ = set(more)
        if not more:
            break
        best = max(more, key=lambda at: (float(order[at][found[at]]), -at))
        step = min(n for n in allowed[best] if n > found[best])
        trial = [step if at == best else n for at, n in enumerate(found)]
        if left(trial) <= goal:
            found = trial
        else:
            open_.discard(best)
    return found
