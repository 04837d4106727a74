"""Running a model over images stage by stage, so that what is measured early can change what is computed later.

All images are at the same place of the network at any time: its tensors that are still to be read are held for all of
them. Whoever corrects a layer by what it computed sees, at the next layer, the effect of the correction, and the whole
network is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.errors import ModelError

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]


class Staged:
    """The main graph of `model` on its way over `feeds`, a list of inputs by name.

    Tensors must be asked for in the order in which the model makes them. Memory holds, for all feeds, what is still to
    be read of what was made.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._maker = {name: place for place, node in enumerate(self._nodes) for name in node.output if name}
        self._last_reader: dict[str, int] = {}
        for place, node in enumerate(self._nodes):
            for name in _reads(node):
                self._last_reader[name] = place
        self._held: list[dict[str, Array]] = [dict(feed) for feed in feeds]
        self._next = 0

    def values(self, name: str) -> list[Array]:
        """The values of a tensor, one array for each feed.

        Raises:
            ModelError: the model makes no such tensor, it is past, or onnxruntime cannot run this part of the model.
        """
        if self._held and name not in self._held[0]:
            place = self._maker.get(name)
            if place is None or place < self._next:
                raise ModelError(f"no tensor `{name}` from node {self._next} on")
            self._advance(place + 1, name)
        return [held[name] for held in self._held]

    def replace(self, name: str, values: Sequence[Array]) -> None:
        """Let what comes later read `values`, one array for each feed, for a tensor that was asked for last."""
        for held, value in zip(self._held, values, strict=True):
            held[name] = value

    def set_constant(self, name: str, values: Array) -> None:
        """Let what comes later read `values` for an initialiser of the model."""
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(values, name)

    def _advance(self, stop: int, wanted: str) -> None:
        """Run the nodes up to `stop`."""
        from lpcc.runtime import Session

        nodes = self._nodes[self._next : stop]
        read = {name for node in nodes for name in _reads(node)}
        made = [name for node in nodes for name in node.output if name]
        kept = [name for name in made if self._last_reader.get(name, -1) >= stop or name == wanted]
        session = Session(self._part(nodes, read, kept))
        inputs = [spec.name for spec in session.inputs]
        for held in self._held:
            found = session.run({name: held[name] for name in inputs}, kept)
            for name in list(held):
                if self._last_reader.get(name, -1) < stop:
                    del held[name]
            held.update(found)
        self._next = stop

    def _part(self, nodes: Sequence[onnx.NodeProto], read: set[str], kept: Sequence[str]) -> onnx.ModelProto:
        """A model of some of the nodes, with what they read from outside as inputs."""
        import onnx
        from onnx import helper

        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
            for name, value in (self._held[0] if self._held else {}).items()
            if name in read
        ]
        graph = onnx.GraphProto(name=self._model.graph.name or "part")
        graph.node.extend(nodes)
        graph.input.extend(inputs)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in kept)
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in read)
        part = onnx.ModelProto(
            ir_version=max(4, self._model.ir_version), graph=graph
        )  # before 4, weights were inputs too
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        return part


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, also within its subgraphs; among those of the latter are some that they make."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            yield from (output.name for output in graph.output)
            for inner in graph.node:
                yield from _reads(inner)
