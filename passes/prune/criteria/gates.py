"""A network whose channels have gates: numbers that they are multiplied with, an input of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups, Layer
from lpcc.data import Batch
from lpcc.errors import ModelError, UsageError
from lpcc.graph import clone, to_proto
from lpcc.match import is_float
from lpcc.passes.normalize.linear import BROADCASTING
from lpcc.runtime import Session

Array = np.ndarray[Any, Any]

_TOLERANCE = 1e-3
"""Of the largest output: how far rounding may take what one image gives in two batches."""
_GENTLE = 0.25
"""How far gates are from 1 when it is tried whether each image of a batch has its own."""


@dataclass(frozen=True, eq=False)
class Gated:
    """A graph with gates, one for each channel.

    The graph has one more input, ``gates``, float32 (rows, count). It has one row, which is that of all images, or as
    many rows as there are images, where the network keeps images apart along the first axis (`GatedSession.separates`
    tells). With all gates 1 the network computes what it did; with the gates of some channels 0, what `zeroed` says.

    Gates stand where channels are read: what each layer that sums over channels gets is ``x_c * m_c``. All other
    operators treat each channel alone, so what a channel holds shows nowhere else. Each way from a channel to a layer
    passes one gate, so the outputs change by ``dy/dm_c`` for the channel in all its tensors together, and at ``m = 1``
    that is the sum over all places of activation times gradient.
    """

    graph: gs.Graph
    gates: str
    """Name of the input."""
    known: Array
    """Which channels can be removed and have a gate before each layer that reads them, bool (count,)."""

    @property
    def count(self) -> int:
        """Number of channels, those included that cannot be removed."""
        return len(self.known)


def gated(graph: gs.Graph, found: ChannelGroups) -> Gated:
    """A copy of a graph with gates; `found` are the channels of the graph. Costs a Mul for each tensor that is read.

    Raises:
        UsageError: the graph is of an opset before 7, in which a Mul does not broadcast.
    """
    if int(graph.opset) < BROADCASTING:
        raise UsageError(f"gates of channels need opset {BROADCASTING}, not {graph.opset}: run the exact passes first")
    copy = clone(graph)
    known = found.free.copy()
    with edit.Edit(copy) as e:
        gates = e.fresh("gates", np.dtype(np.float32), ["rows", found.count])
        copy.inputs.append(gates)
        makers = {output.name: node for node in e.nodes for output in node.outputs if output.name}
        builder = _Builder(e, gates)
        for layer in found.layers:
            if layer.reads is None or not known[layer.reads].any():
                continue
            node = makers[layer.output]
            place = _place(node, layer, found)
            if place is None or not is_float(node.inputs[place[0]].dtype):
                known[layer.reads] = False
                continue
            index, axis = place
            e.replace_input(
                node, index, builder.gated(node.inputs[index], axis, _rank(layer, index, found), layer.reads)
            )
    return Gated(copy, gates.name, known)


def _place(node: gs.Node, layer: Layer, found: ChannelGroups) -> tuple[int, int] | None:
    """Which input of a layer holds the channels that it reads, and along which axis; None where that is not clear."""
    index = int(layer.op in ("Gemm", "MatMul") and layer.inputs[0] in found.constants)
    axes = found.labels.get(layer.inputs[index], ())
    match layer.op:
        case "Conv" | "ConvTranspose":
            axis = 1
        case "Gemm" if index == 0:
            axis = 0 if edit.attr(node, "transA", 0) else 1
        case "Gemm":
            axis = 1 if edit.attr(node, "transB", 0) else 0
        case "MatMul":
            axis = len(axes) - 1 - index
        case _:  # sums over axes, each of which is a layer here
            axis = next((at for at, line in enumerate(axes) if _same(line, layer.reads)), len(axes))
    return (index, axis) if axis < len(axes) and _same(axes[axis], layer.reads) else None


def _same(first: Array | None, second: Array | None) -> bool:
    return first is not None and second is not None and np.array_equal(first, second)


def _rank(layer: Layer, index: int, found: ChannelGroups) -> int:
    return len(found.labels[layer.inputs[index]])


class _Builder:
    """Makes gated tensors, each once."""

    def __init__(self, e: edit.Edit, gates: gs.Variable) -> None:
        self._e = e
        self._gates = gates
        self._masks: dict[tuple[bytes, int, int, str], gs.Variable] = {}
        self._made: dict[tuple[int, int], tuple[gs.Tensor, gs.Variable]] = {}

    def gated(self, tensor: gs.Tensor, axis: int, rank: int, line: Array) -> gs.Variable:
        key = id(tensor), axis
        if key not in self._made:
            product = self._e.fresh(f"{tensor.name}_gated", tensor.dtype, tensor.shape)
            self._e.add("Mul", [tensor, self._mask(line, axis, rank, np.dtype(tensor.dtype))], [product])
            self._made[key] = tensor, product  # the tensor is kept alive: its identity is the key
        return self._made[key][1]

    def _mask(self, line: Array, axis: int, rank: int, dtype: np.dtype[Any]) -> gs.Variable:
        """The gates of the channels along an axis, (rows, 1, ..., places, 1, ...); with axis 0 for one row only."""
        key = line.tobytes(), axis, rank, dtype.name
        if key in self._masks:
            return self._masks[key]
        e, hint = self._e, f"gates{len(self._masks)}"
        shape: list[int | str | None] = ["rows", *[1] * (rank - 1)] if axis else [1] * rank
        shape[axis] = len(line)
        target = [-1 if isinstance(size, str) else size for size in shape]
        picked = e.fresh(f"{hint}_picked", self._gates.dtype, ["rows", len(line)])
        mask = e.fresh(hint, self._gates.dtype, shape)
        e.add("Gather", [self._gates, e.constant(f"{hint}_places", line.astype(np.int64))], [picked], {"axis": 1})
        e.add("Reshape", [picked, e.constant(f"{hint}_shape", np.asarray(target, dtype=np.int64))], [mask])
        if dtype != np.float32:
            cast = e.fresh(f"{hint}_cast", dtype, shape)
            e.add("Cast", [mask], [cast], {"to": int(helper.np_dtype_to_tensor_dtype(dtype))})
            mask = cast
        self._masks[key] = mask
        return mask


class GatedSession:
    """A gated network in onnxruntime.

    `outputs` are the names of those that are asked for. Raises ModelError when onnxruntime refuses the model.
    """

    def __init__(self, network: Gated, outputs: Sequence[str], *, threads: int = 1) -> None:
        self.network = network
        self.outputs = tuple(outputs)
        self._session = Session(to_proto(network.graph), threads=threads)

    def run(self, feeds: Mapping[str, Array], gates: Array | None = None) -> dict[str, Array]:
        """Outputs by name, for gates (rows, count); None: all are 1. Raises ModelError as `Session.run` does."""
        if gates is None:
            gates = np.ones((1, self.network.count))
        given = np.ascontiguousarray(gates, dtype=np.float32)
        return self._session.run({**feeds, self.network.gates: given}, self.outputs)

    def separates(self, batch: Batch) -> bool:
        """Whether each image of such a batch, of more than one, can be given a row of gates of its own.

        That is tried: an image among others, with other gates, must give what it gives among its own likes. Not so
        where the network moves images off the first axis, or mixes them.
        """
        if batch.rows < 2 or not all(array.ndim and len(array) == batch.rows for array in batch.feeds.values()):
            return False
        rng = np.random.default_rng(0)
        gates = 1 - _GENTLE * rng.random((batch.rows, self.network.count))
        alike = {name: np.repeat(array[:1], batch.rows, axis=0) for name, array in batch.feeds.items()}
        try:
            mixed, same = self.run(batch.feeds, gates), self.run(alike, np.repeat(gates[:1], batch.rows, axis=0))
            shared = self.run(alike, gates[:1])
        except ModelError:
            return False
        return all(_starts_alike(mixed[name], (same[name], shared[name]), batch.rows) for name in self.outputs)


def _starts_alike(output: Array, others: Sequence[Array], rows: int) -> bool:
    """Whether outputs have one entry for each image, the first of which is that of all in the others."""
    if any(array.ndim == 0 or len(array) != rows or array.shape != output.shape for array in (output, *others)):
        return False
    first = output[:1].astype(np.float64)
    scale = _TOLERANCE * float(np.abs(first).max(initial=0.0))
    return all(float(np.abs(array.astype(np.float64) - first).max(initial=0.0)) <= scale for array in others)
