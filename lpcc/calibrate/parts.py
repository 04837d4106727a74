"""Running a model part by part: only what makes some tensors, or in steps between which its weights may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Batch, Dataset

Array = np.ndarray[Any, Any]

_BATCH = 8


def part(model: onnx.ModelProto, outputs: Sequence[str], given: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """The part of `model` that makes the tensors `outputs` of its main graph, as a model of its own.

    Tensors in `given` are inputs of it, of the type and shape (but for the first axis) of the arrays there.

    Raises ModelError for an output that is not given and that no node of the main graph makes.
    """
    import onnx
    from onnx import helper

    given = given or {}
    needed = {name for name in outputs if name not in given}
    missing = needed - {name for node in model.graph.node for name in node.output}
    if missing:
        raise ModelError(f"no node of the model makes a tensor named `{min(missing)}`")
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in reads(node) if name not in given)
    wanted = needed | {name for node in nodes for name in reads(node)}
    result = onnx.ModelProto()
    result.ir_version = model.ir_version
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    graph = result.graph
    graph.name = model.graph.name or "part"
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in needed)
    for name, values in given.items():
        if name in wanted:
            if not isinstance(values, np.ndarray):
                raise ModelError(f"`{name}` is no tensor: the model cannot be run in parts there")
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            shape = [None, *values.shape[1:]] if values.ndim else []
            graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    graph.input.extend(info for info in model.graph.input if info.name in needed)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs) if name not in given)
    return result


@dataclass
class _Stop:
    """A batch on its way: what is known of it, and is read further on."""

    batch: Batch
    first: int
    values: dict[str, Array]


class Walk:
    """A model on its way over images, up to one tensor after another; its weights may change ahead of where it is.

    Each node runs once for each image. What is read further on is kept: memory grows with the number of images.
    """

    def __init__(self, data: Dataset, threads: int = 1) -> None:
        self._threads = threads
        self._stops: list[_Stop] = []
        self._done: set[str] = set()  # inputs, and tensors whose nodes have run
        first = 0
        for batch in data.batches(_BATCH):
            self._stops.append(_Stop(batch, first, dict(batch.feeds)))
            self._done.update(batch.feeds)
            first += batch.count

    def to(self, model: onnx.ModelProto, tensor: str) -> Iterator[tuple[Batch, int, Array]]:
        """Go on to `tensor`, in `model` as it is now: each batch, the number of its first image, and the values.

        Raises:
            ModelError: the model cannot be run, or no node of its main graph makes the tensor.
        """
        from lpcc.runtime import Session

        if not self._stops:
            return
        known = self._stops[0].values
        if tensor not in known:
            stretch = part(model, [tensor], known)
            self._done.update(name for node in stretch.graph.node for name in node.output if name)
            outputs = [tensor, *(name for name in self._read_later(model) if name not in known and name != tensor)]
            session = Session(part(model, outputs, known), threads=self._threads)
            names = [spec.name for spec in session.inputs]
            for stop in self._stops:
                stop.values.update(session.run({name: stop.values[name] for name in names}, outputs))
        later = {tensor, *self._read_later(model)}
        for stop in self._stops:
            yield stop.batch, stop.first, stop.values[tensor]
            stop.values = {name: values for name, values in stop.values.items() if name in later}

    def _read_later(self, model: onnx.ModelProto) -> list[str]:
        """Tensors at hand that nodes read that have not run; not those that depend on no input, made anew each time."""
        live = {info.name for info in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
        found: dict[str, None] = {}
        for node in model.graph.node:
            read = dict.fromkeys(reads(node))
            if any(name in live for name in read):
                live.update(name for name in node.output if name)
            if not self._done.intersection(node.output):
                found.update((name, None) for name in read if name in live and name in self._done)
        return list(found)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs read among them."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            yield from (info.name for info in graph.output)
            for inner in graph.node:
                yield from reads(inner)
