"""The layers of a graph as something to compare two networks by: where each ends, how deep it lies, what passes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lpcc import edit

_SHAPES = frozenset({"Shape", "Size"})
"""What these give tells of sizes, not of what is in the image."""
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "Einsum"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger"})
_MOVES = frozenset(
    {
        "Cast",
        "DepthToSpace",
        "DequantizeLinear",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "QuantizeLinear",
        "Reshape",
        "Resize",
        "Slice",
        "Softmax",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Upsample",
    }
)
_POOLS = frozenset(
    {
        "AveragePool",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "LpPool",
        "MaxPool",
        "ReduceMax",
        "ReduceMean",
    }
)
_FINISHES = frozenset(
    {
        "BatchNormalization",
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "InstanceNormalization",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    }
)
"""What a layer has after its weights; a layer ends behind it."""
_SAME = frozenset({"Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear"})
"""What a layer passes unchanged, but for rounding."""
_JOINS = frozenset({"Add", "Concat", "Sum"})
_SHIFTS = frozenset({"Add", "Div", "Mul", "Sub"})
"""These too, with a constant."""


@dataclass(frozen=True)
class Layer:
    """The end of a layer: a tensor behind weights, normalisation and activation, that other layers read."""

    name: str
    axis: int
    """The axis of the channels: 1 behind convolutions, the last behind matrix products."""
    depth: int
    """How many operators with weights there are on the longest way to it."""
    cut: bool
    """Whether all that the network makes of its input passes here: sums of residual networks, not their branches."""
    joins: bool = False
    """Whether it adds or concatenates what several layers made."""


def layers(graph: gs.Graph) -> list[Layer]:
    """The ends of layers that have weights before and after them, in the order in which they are computed.

    Only of the outermost graph. A tensor that only scores or moves before the outputs is none: `outputs` and `kd` see
    those.
    """
    data = {id(t) for t in graph.inputs if getattr(t, "default", None) is None}
    depth: dict[int, int] = {}
    axis: dict[int, int] = {}
    joins: set[int] = set()
    for node in graph.nodes:
        op = edit.op(node)
        read = [t for t in _reads(node) if id(t) in data]
        if not read or op in _SHAPES:
            continue
        parameters = op in _WEIGHTED and any(id(t) not in data for t in node.inputs if t.name)
        channels = _axis(node, axis)
        joined = len({id(t) for t in read}) > 1 and op in _JOINS
        joined = joined or (op in _FINISHES | _SHIFTS | _SAME and any(id(t) in joins for t in read))
        for tensor in node.outputs:
            data.add(id(tensor))
            depth[id(tensor)] = max(depth.get(id(t), 0) for t in read) + parameters
            axis[id(tensor)] = channels
            if joined:
                joins.add(id(tensor))
    after = _weights_after(graph, data)
    cuts = _cuts(graph, data)
    found = []
    for node in graph.nodes:
        for tensor in node.outputs[:1]:
            if id(tensor) not in depth or not depth[id(tensor)] or not after.get(id(tensor), 0):
                continue
            if edit.op(node) in _MOVES | _POOLS or edit.subgraphs(node) or _goes_on(tensor):
                continue
            place = id(tensor)
            found.append(Layer(tensor.name, axis[place], depth[place], place in cuts, place in joins))
    return found


def _reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """What a node reads, also inside its subgraphs."""
    yield from (t for t in node.inputs if t.name)
    for body in edit.subgraphs(node):
        for inner in edit.nodes(body):
            yield from (t for t in inner.inputs if t.name)


def _goes_on(tensor: gs.Tensor) -> bool:
    """Whether the layer has more to come: its one reader, rounding aside, normalises, activates or shifts it."""
    while len(tensor.outputs) == 1 and edit.op(tensor.outputs[0]) in _SAME:
        tensor = tensor.outputs[0].outputs[0]
    if len(tensor.outputs) != 1:
        return False
    reader = tensor.outputs[0]
    op = edit.op(reader)
    return op in _FINISHES or (op in _SHIFTS and any(_fixed(t) for t in reader.inputs if t is not tensor))


def _fixed(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a constant, maybe behind a DequantizeLinear."""
    if isinstance(tensor, gs.Constant):
        return True
    made = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    return made is not None and all(isinstance(t, gs.Constant) for t in made.inputs)


def _axis(node: gs.Node, known: dict[int, int]) -> int:
    """The axis of the channels of what a node makes."""
    op = edit.op(node)
    if op in _CONVOLUTIONS:
        return 1
    if op in _WEIGHTED:
        return -1
    axis = next((known[id(t)] for t in node.inputs if id(t) in known), 1)
    perm = edit.attr(node, "perm")
    if op == "Transpose" and perm is not None and -len(perm) <= axis < len(perm):
        return list(perm).index(axis % len(perm)) or 1  # 0 is the samples', or about to be reshaped
    return 1 if op == "Reshape" and axis >= 0 else axis


def _weights_after(graph: gs.Graph, data: set[int]) -> dict[int, int]:
    """For each tensor, whether an operator with weights comes after it: 1 if so, by tensor."""
    after: dict[int, int] = {}
    for node in reversed(graph.nodes):
        if not any(id(t) in data for t in node.outputs):
            continue
        read = list(_reads(node))
        weighted = edit.op(node) in _WEIGHTED and any(id(t) not in data for t in read)
        follows = max([int(weighted), *(after.get(id(t), 0) for t in node.outputs)])
        for tensor in read:
            after[id(tensor)] = max(after.get(id(tensor), 0), follows)
    return after


def _cuts(graph: gs.Graph, data: set[int]) -> set[int]:
    """The tensors that alone are still to be read when they are made: every way from input to output passes them."""
    last: dict[int, int] = {}
    for place, node in enumerate(graph.nodes):
        for tensor in _reads(node):
            if id(tensor) in data:
                last[id(tensor)] = place
    ends: dict[int, int] = {}
    for place in last.values():
        ends[place] = ends.get(place, 0) + 1
    live = sum(id(t) in last for t in graph.inputs)
    cuts = set()
    for place, node in enumerate(graph.nodes):
        live -= ends.get(place, 0)
        made = [t for t in node.outputs if id(t) in last]
        live += len(made)
        if live == 1 and len(made) == 1:
            cuts.add(id(made[0]))
    return cuts
