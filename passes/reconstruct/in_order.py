"""Layers of a network that was changed refitted in order, each by what the layers before it make now.

The original network says what a layer should make, the changed one, as refitted so far, what it reads: with X' these
rows and Y those, weights and bias minimise

    || X' W' + b' - (Y + (S - S')) ||^2

over the outputs that are left, with a ridge towards the weights as they are. How strong it is, one image in four tells,
layer by layer: the fit of the other three must do best on these, and better than no fit. Where the result is added to a
branch that is there already, S is that branch in the original and S' in the pruned network: the layer makes good what
the branch has lost. So He, Zhang and Sun, Channel pruning for accelerating very deep neural networks (2017, arXiv
1707.06168), section 3.3, treat residual blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import trains
from lpcc.calibrate.partial import Walk
from lpcc.calibrate.patches import NoPatches, Patches, Results
from lpcc.data import Batch
from lpcc.graph import to_proto
from lpcc.passes.reconstruct.pairs import Pairs, best_fit
from lpcc.passes.reconstruct.reading import Reading, rows_per_image

Array = np.ndarray[Any, Any]

_APART = 4
"""One image in so many tells which fit is best."""
_SMALL = 1e-2
"""Share of the largest scale of a batch norm below which its channel says too little to make a branch's loss good."""


class InOrder:
    """Two networks on their way over the same images: as it was, and as it is now, layer after layer.

    `kept` says which places of the original's tensors are left in `graph`, by name and axis; `layers` are those of
    `graph` that will be refitted. Both networks halt at a layer; each node runs once.
    """

    def __init__(
        self,
        original: gs.Graph,
        graph: gs.Graph,
        batches: Sequence[Batch],
        layers: Iterable[gs.Node],
        kept: Mapping[str, Mapping[int, Array]],
    ) -> None:
        self.graph = graph
        self._kept = kept
        self._coming = {id(node) for node in layers}  # they must not run before their turn
        self._batches = batches
        self._images = sum(batch.count for batch in batches)
        self._wanted = Walk(to_proto(original), [batch.feeds for batch in batches])
        self._read = Walk(to_proto(graph), [batch.feeds for batch in batches])

    def reached(self, node: gs.Node) -> None:
        """It is the turn of one of the `layers`."""
        self._coming.discard(id(node))

    def refit(self, before: Reading, now: Reading) -> None:
        """Give the layer `now`, which was `before`, the weights and the bias that fit best.

        Raises as `pairs`, and NoPatches where no fit is better than what it has, or too large for its type.
        """
        fit, check = self.pairs(before, now)
        fitted, bias = best_fit(now, fit, check)
        with edit.Edit(self.graph) as e:
            now.write(e, fitted, bias if now.takes_bias else None)
        self.changed()

    def changed(self) -> None:
        """To be called when nodes of `graph` from the layer on have changed."""
        self._read.model = to_proto(self.graph)

    def pairs(self, before: Reading, now: Reading) -> tuple[Pairs, Pairs]:
        """What a layer reads now, with what it should make: of three images in four, and of the others.

        Raises:
            NoPatches: there are no rows, or no sums of them, or numbers that are not finite.
            ModelError: onnxruntime cannot run a part of one of the networks.
        """
        branch = self._branch(now)
        shared = [] if branch is None else [branch.tensor]
        self._wanted.to(before.target, *shared)
        self._read.to(now.source, *shared)
        window = now.window
        fit, check = Pairs(window), Pairs(window)
        patches, results = Patches(now.source, window), Results(now.target, window)
        limit = rows_per_image(window, self._images)
        first = 0
        for batch, target, read in zip(self._batches, self._wanted.held, self._read.held, strict=True):
            rows = patches.rows(read[now.source], batch, first, limit)
            apart = np.arange(first, first + batch.count) % _APART == _APART - 1
            with np.errstate(invalid="ignore", over="ignore"):
                wanted = results.rows(self._target(before, branch, target, read), batch, first, limit)
                fit.add(rows[~apart], wanted[~apart])
                check.add(rows[apart], wanted[apart])
            first += batch.count
        if not (fit.finite and check.finite):
            raise NoPatches("it reads or makes numbers that are not finite")
        return fit, check

    def _target(
        self, before: Reading, branch: _Branch | None, target: Mapping[str, Array], read: Mapping[str, Array]
    ) -> Array:
        """What is left of a layer's result in the original network, and what the branch that it is added to lost."""
        wanted = self._cut(before.target, target[before.target])
        if branch is None:
            return wanted
        now = read[branch.tensor]
        lost = self._cut(branch.tensor, target[branch.tensor]).astype(np.float32) - now
        return wanted + branch.undone(lost) if now.shape == wanted.shape else wanted

    def _branch(self, layer: Reading) -> _Branch | None:
        """What the result of a layer is added to, if it is at hand, or follows from that by no layer still to come."""
        result = layer.node.outputs[0]
        scale = None
        reader = self._only_reader(result)
        if reader is not None and edit.op(reader) == "BatchNormalization":
            scale = _scale(reader, int(self.graph.opset))
            if scale is None:
                return None
            result = reader.outputs[0]
            reader = self._only_reader(result)
        if reader is None or edit.op(reader) != "Add":
            return None
        others = [tensor for tensor in reader.inputs if tensor is not result]
        same = len(others) == 1 and others[0].shape is not None and list(others[0].shape) == list(result.shape or [])
        if not same or isinstance(others[0], gs.Constant):
            return None
        if any(id(node) in self._coming for node in _makers(others[0], self._read.held[0].keys())):
            return None
        return _Branch(others[0].name, scale)

    def _only_reader(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that reads a tensor, if nobody else does."""
        alone = len(tensor.outputs) == 1 and all(tensor is not output for output in self.graph.outputs)
        return tensor.outputs[0] if alone else None

    def _cut(self, name: str, values: Array) -> Array:
        """What is left of a tensor of the original network."""
        for axis, places in self._kept.get(name, {}).items():
            values = np.compress(places, values, axis=axis)
        return values


class _Branch:
    """A tensor that is added to what a layer makes, maybe behind a batch norm."""

    def __init__(self, tensor: str, scale: Array | None) -> None:
        self.tensor = tensor
        self._scale = scale

    def undone(self, values: Array) -> Array:
        """What the layer would have to make more, for this to be added behind the batch norm."""
        if self._scale is None:
            return values
        scale = self._scale.reshape(-1, *[1] * (values.ndim - 2))
        tells = np.abs(scale) > _SMALL * np.abs(scale).max()
        return np.where(tells, values / np.where(tells, scale, 1.0), 0.0).astype(values.dtype)


def _scale(norm: gs.Node, opset: int) -> Array | None:
    """What a batch norm multiplies each channel with; None where that is not constant."""
    numbers = [edit.const(tensor) for tensor in (norm.inputs[1], norm.inputs[4])]
    if trains(norm, opset) or any(values is None for values in numbers):
        return None
    gamma, variance = (np.asarray(values, dtype=np.float64) for values in numbers)
    return np.asarray(gamma / np.sqrt(variance + float(edit.attr(norm, "epsilon", 1e-5))))


def behind(graph: gs.Graph, tensors: Collection[str]) -> set[str]:
    """Names of the tensors that depend on some, these included."""
    found = set(tensors)
    for node in graph.nodes:
        inner = [tensor for body in edit.subgraphs(node) for each in edit.nodes(body) for tensor in each.inputs]
        if any(tensor.name in found for tensor in (*node.inputs, *inner)):
            found.update(tensor.name for tensor in node.outputs if tensor.name)
    return found


def _makers(tensor: gs.Tensor, held: Collection[str]) -> Iterator[gs.Node]:
    """All nodes that make a tensor from what is held."""
    open_, seen = [tensor], set()
    while open_:
        current = open_.pop()
        if current.name in held or not current.inputs or id(current.inputs[0]) in seen:
            continue
        maker = current.inputs[0]
        seen.add(id(maker))
        yield maker
        open_.extend(maker.inputs)
