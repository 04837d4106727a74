"""Which scales of activations are one: those that must stay equal for integer kernels to go on working.

Tied are the scales of a QuantizeLinear and of all that dequantise its integers, also behind operators that compute on
the integers themselves; and those before and behind operators that only move numbers, where they were equal.

A scale stays as it is, with a reason, where it stands for more than a range: where operators on integers were given
other scales for the same integers (HardSwish as a product with a Clip), and behind Softmax, Sigmoid and Tanh where it
is a power of two, as some runtimes want it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import frexp, inf, prod

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.bounds import clip_bounds
from lpcc.analysis.shapes import Shapes
from lpcc.train.latents.latent import Latent
from lpcc.train.latents.scale import Multiple, Scale
from lpcc.train.operators.quantised import integer_ends

MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherND", "Identity", "MaxPool", "Pad", "Reshape"}
    | {"Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators whose results are some of the numbers that they read."""

_ON_INTEGERS = MOVES | {"Clip", "Max", "Min", "Relu"}
_FIXED_RANGES = frozenset(("LogSoftmax", "Sigmoid", "Softmax", "Tanh"))
_UNKNOWN_SIZE = 4096  # numbers of a tensor whose shape is not known; the gradient scale takes their root


@dataclass(eq=False)
class Tie:
    """The constants that hold one scale, and the nodes that read them."""

    tensors: list[gs.Tensor] = field(default_factory=list)
    quantizers: list[gs.Node] = field(default_factory=list)
    reason: str | None = None
    """Why it is not trained."""

    @property
    def names(self) -> list[str]:
        """Names of the constants."""
        return [str(tensor.name) for tensor in self.tensors]


def ties(graph: gs.Graph) -> list[Tie]:
    """The scales of activations of a graph and those nested in it, in the order of the nodes that use them."""
    sets = _Sets()
    uses: dict[int, gs.Tensor] = {}
    quantizers: list[gs.Node] = []
    integers: set[int] = set()  # tensors of integers that some QuantizeLinear made
    moved: dict[int, list[gs.Node]] = {}  # by float tensor: the DequantizeLinear nodes whose numbers it holds
    for node in edit.nodes(graph):
        op = edit.op(node)
        if op in rules.QUANTIZE and _held(node.inputs[1]) is not None:
            uses.setdefault(id(node.inputs[1]), node.inputs[1])
            quantizers.append(node)
            integers.add(id(node.outputs[0]))
            sets.join(id(node.inputs[1]), id(node.outputs[0]))
            for other in moved.get(id(node.inputs[0]), []):
                if _equal(node, other):
                    sets.join(id(node.inputs[1]), id(other.inputs[1]))
        elif op in rules.DEQUANTIZE and id(node.inputs[0]) in integers:
            moved[id(node.outputs[0])] = [node]
            if _held(node.inputs[1]) is not None:
                uses.setdefault(id(node.inputs[1]), node.inputs[1])
                sets.join(id(node.inputs[1]), id(node.inputs[0]))
        elif op in _ON_INTEGERS:
            read = [tensor for tensor in _data(node, op) if id(tensor) in integers]
            for tensor in read:
                for result in node.outputs:
                    integers.add(id(result))
                    sets.join(id(tensor), id(result))
            sources = [moved[id(tensor)] for tensor in _data(node, op) if id(tensor) in moved]
            if sources and (op in MOVES or op == "Max"):
                moved.update((id(result), [node for found in sources for node in found]) for result in node.outputs)
    found: dict[int, Tie] = {}
    for key, tensor in uses.items():
        found.setdefault(sets.find(key), Tie()).tensors.append(tensor)
    for node in quantizers:
        found[sets.find(id(node.inputs[1]))].quantizers.append(node)
    returned = {sets.find(id(tensor)) for tensor in graph.outputs if id(tensor) in integers}
    for key, tie in found.items():
        tie.reason = "the graph returns integers of it" if key in returned else _obstacle(tie)
    return list(found.values())


def scale_of(tie: Tie, shapes: Shapes) -> Scale:
    """The scale as it is trained, or as it stays."""
    value = _value(tie.tensors[0])
    sizes = [shapes.of(node.inputs[0]) for node in tie.quantizers]
    features = sum(_UNKNOWN_SIZE if shape is None else max(1, prod(shape[1:])) for shape in sizes)
    greatest, ceiling = 1.0, inf
    for node in tie.quantizers:
        low, high = _units(node)
        greatest = max(greatest, -low, high)
        ceiling = min(ceiling, _clipped_to(node, low, high, float(value.max(initial=0.0))))
    return Scale(tie.names, value, features, greatest, trained=tie.reason is None, ceiling=ceiling)


def ends_of(tie: Tie, scale: Scale) -> dict[str, Latent]:
    """The constants of a Max or Min that say where the range of the QuantizeLinear behind it ends: they follow it."""
    found: dict[str, Latent] = {}
    for node in tie.quantizers:
        maker = node.inputs[0].inputs[0] if len(node.inputs[0].inputs) == 1 else None
        if maker is None or edit.op(maker) not in ("Max", "Min") or len(maker.inputs) != 2 or tie.reason is not None:
            continue
        factor = _units(node)[0 if edit.op(maker) == "Max" else 1]
        for tensor in maker.inputs:
            end = edit.scalar(tensor)
            if end is None or len(tensor.outputs) != 1 or _value(node.inputs[1]).size != 1 or not factor:
                continue
            if abs(end - factor * float(_value(node.inputs[1]).reshape(()))) <= 1e-5 * abs(end):
                found[str(tensor.name)] = Multiple(str(tensor.name), scale, factor, tuple(tensor.shape))
    return found


def _data(node: gs.Node, op: str) -> list[gs.Tensor]:
    """The tensors whose numbers an operator takes."""
    every = node.inputs if op in ("Concat", "Max", "Min") else node.inputs[:1]
    return [tensor for tensor in every if not isinstance(tensor, gs.Constant)]


def _held(tensor: gs.Tensor) -> gs.Constant | None:
    return tensor if isinstance(tensor, gs.Constant) else None


def _value(tensor: gs.Tensor) -> np.ndarray:
    return np.asarray(tensor.values)


def _equal(first: gs.Node, second: gs.Node) -> bool:
    """Whether two nodes have the same scale and zero point."""
    if len(first.inputs) != len(second.inputs):
        return False
    for one, other in zip(first.inputs[1:3], second.inputs[1:3], strict=True):
        a, b = edit.const(one), edit.const(other)
        if a is None or b is None or a.dtype != b.dtype or not np.array_equal(a, b):
            return False
    return True


def _units(node: gs.Node) -> tuple[float, float]:
    """Ends of the range of a QuantizeLinear in units of its scale."""
    zero = edit.const(edit.inp(node, 2))
    low, high = integer_ends(np.dtype(np.uint8) if node.outputs[0].dtype is None else np.dtype(node.outputs[0].dtype))
    if zero is None:
        return float(low), float(high)
    low, high = integer_ends(np.dtype(zero.dtype))
    zeros = np.asarray(zero).astype(np.int64)
    return float(low - zeros.max()), float(high - zeros.min())


def _clipped_to(node: gs.Node, low: float, high: float, scale: float) -> float:
    """The greatest scale with which the range keeps to the limits of the Clip that makes what a node quantises.

    Runtimes drop a Clip from a layer only then. No limit where the range goes beyond it already.
    """
    maker = node.inputs[0].inputs[0] if len(node.inputs[0].inputs) == 1 else None
    if maker is None or edit.op(maker) != "Clip":
        return inf
    least, most = clip_bounds(maker)
    wanted = [end / units for end, units in ((least, low), (most, high)) if end is not None and end and units]
    finite = [float(np.nextafter(np.float32(limit), np.float32(0))) for limit in wanted if 0 < limit < inf]
    return min((limit for limit in finite if limit >= scale * (1 - 1e-6)), default=inf)


def _obstacle(tie: Tie) -> str | None:
    """Why a scale is not trained."""
    first = _value(tie.tensors[0])
    if any(_value(tensor).dtype != np.float32 for tensor in tie.tensors):
        return "it is not float32"
    if any(not np.array_equal(_value(tensor), first) for tensor in tie.tensors):
        return "its integers are read with another scale elsewhere"
    if not (np.isfinite(first).all() and (first > 0).all()):
        return "it is not positive"
    quantises = rules.QUANTIZE | rules.DEQUANTIZE
    if any(edit.op(node) not in quantises or _elsewhere(node, t) for t in tie.tensors for node in t.outputs):
        return "it is used as a number, too"
    if not tie.quantizers:
        return "nothing is quantised with it"
    for node in tie.quantizers:
        maker = node.inputs[0].inputs[0] if len(node.inputs[0].inputs) == 1 else None
        is_fixed = maker is not None and edit.op(maker) in _FIXED_RANGES and first.size == 1
        if is_fixed and frexp(float(first.reshape(())))[0] == 0.5:
            return f"runtimes want it as it is behind {edit.op(maker)}"
    return None


def _elsewhere(node: gs.Node, scale: gs.Tensor) -> bool:
    return any(tensor is scale for index, tensor in enumerate(node.inputs) if index != 1)


class _Sets:
    """Disjoint sets of keys."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def find(self, key: int) -> int:
        """The representative of the set that holds a key."""
        root = key
        while (above := self._parent.get(root, root)) != root:
            root = above
        while key != root:
            self._parent[key], key = root, self._parent.get(key, key)
        return root

    def join(self, first: int, second: int) -> None:
        """Make one set of two; the representative is that of the first."""
        self._parent[self.find(second)] = self.find(first)


def scales_by_name(found: Iterable[tuple[Tie, Scale]]) -> dict[str, Scale]:
    """The scale of each constant."""
    return {name: scale for tie, scale in found for name in tie.names}
