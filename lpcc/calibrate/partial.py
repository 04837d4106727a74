"""Running a model part by part: only what makes some tensors, or from halt to halt.

At a halt one may look at what has been made, change it, and change the weights that are still to be read: who repairs
a layer by what it computed sees, at the next layer, the effect of the repair, and each node runs once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]
"""Values of tensors by name, batch by batch."""


def part(model: onnx.ModelProto, outputs: Sequence[str], given: Feeds = ()) -> onnx.ModelProto:
    """The part of `model` that makes the tensors `outputs` of its main graph, as a model of its own.

    Tensors in `given` are inputs of it, of the types of the arrays there and of the sizes in which these agree, but
    for the first axis.

    Raises ModelError for an output that is not given and that no node of the main graph makes.
    """
    import onnx

    at_hand = given[0] if given else {}
    nodes = _making(model, outputs, at_hand)
    read = {name for node in nodes for name in _reads(node)}
    result = onnx.ModelProto()
    result.ir_version = model.ir_version
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    graph = result.graph
    graph.name = model.graph.name or "part"
    graph.node.extend(nodes)
    needed = read - at_hand.keys()
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in needed)
    graph.input.extend(_input(name, [values[name] for values in given]) for name in at_hand if name in read)
    graph.input.extend(info for info in model.graph.input if info.name in needed)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs) if name not in at_hand)
    return result


def glimpse(model: onnx.ModelProto, names: Sequence[str], data: Dataset) -> dict[str, Array]:
    """What tensors of the main graph, inputs among them, are for the first image; empty where there is none.

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
        DataError: a sample turns out to be wrong.
    """
    from lpcc.runtime import Session, with_outputs

    first = next(iter(data.head(1).batches(1)), None)
    if first is None or not names:
        return {}
    inputs = {info.name for info in model.graph.input}
    made = [name for name in names if name not in inputs]
    return {**first.feeds, **Session(with_outputs(model, made)).run(first.feeds, made)}


def order(model: onnx.ModelProto) -> dict[str, int]:
    """Which node makes each tensor of the main graph; -1 for inputs and constants."""
    found = {info.name: -1 for info in model.graph.input} | {tensor.name: -1 for tensor in model.graph.initializer}
    found.update((name, place) for place, node in enumerate(model.graph.node) for name in node.output if name)
    return found


class Walk:
    """The main graph of a model on its way over `feeds`, all of which are at the same place of it.

    Tensors are asked for in the order in which the model makes them. The model may change ahead of the walk, in place
    or for another in which what is at hand has the same names.

    Raises ModelError where onnxruntime cannot run a stretch of the model, or one is to be run that is past; the walk is
    where it was then.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Feeds, *, threads: int = 1, limit: float = math.inf) -> None:
        """Where the values of all feeds would take more than `limit` bytes it does not halt."""
        self.model = model
        self.held: list[dict[str, Array]] = [dict(feed) for feed in feeds]
        """For each feed what later nodes read of what has been made, and outputs."""
        self._threads = threads
        self._limit = limit
        self._done: set[str] = set()  # tensors whose nodes have run

    def to(self, *tensors: str, keep: Collection[str] = ()) -> None:
        """Go on until `tensors` are at hand; from now on hold them until the next halt, and `keep` as they are made."""
        if not self.held:
            return
        from lpcc.runtime import Session

        at_hand = self.held[0]
        live = self._live()
        nodes = _making(self.model, tensors, at_hand)
        made = {name for node in nodes for name in node.output if name}
        if past := sorted((made & self._done) | (made & at_hand.keys())):
            raise ModelError(f"no tensor `{past[0]}` any more: it was made before")
        done = self._done | (made & live)
        later = {*tensors, *keep, *(info.name for info in self.model.graph.output)}
        for node in self.model.graph.node:
            if not done.intersection(node.output):
                later.update(name for name in _reads(node) if name in live)
        wanted = sorted(made & later)
        session = Session(part(self.model, wanted, self.held), threads=self._threads) if wanted else None
        arrived = []
        for held in self.held:
            found = {name: values for name, values in held.items() if name in later}
            if session is not None:
                found.update(session.run({spec.name: held[spec.name] for spec in session.inputs}, wanted))
            arrived.append(found)
            if len(self.held) * sum(np.asarray(values).nbytes for values in found.values()) > self._limit:
                return
        self.held, self._done = arrived, done

    def values(self, tensor: str) -> list[Array]:
        """Go on to a tensor; its values, an array for each feed."""
        self.to(tensor)
        return [held[tensor] for held in self.held]

    def replace(self, tensor: str, values: Sequence[Array]) -> None:
        """Let what comes later read `values`, an array for each feed, for a tensor at hand."""
        for held, value in zip(self.held, values, strict=True):
            held[tensor] = value

    def set_constant(self, name: str, values: Array) -> None:
        """Let what comes later read `values` for an initialiser: it is changed in the model."""
        from onnx import numpy_helper

        tensor = next(tensor for tensor in self.model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    def _live(self) -> set[str]:
        """Tensors that depend on the inputs or on what is at hand; the others are not held, but made anew each time."""
        found = {info.name for info in self.model.graph.input} - {t.name for t in self.model.graph.initializer}
        found.update(self.held[0])
        for node in self.model.graph.node:
            if any(name in found for name in _reads(node)):
                found.update(name for name in node.output if name)
        return found


def _making(model: onnx.ModelProto, outputs: Collection[str], at_hand: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes of the main graph, in order, that make `outputs` from what is at hand.

    Raises ModelError for an output that no node makes.
    """
    needed = {name for name in outputs if name not in at_hand}
    missing = needed - {name for node in model.graph.node for name in node.output}
    if missing:
        raise ModelError(f"no node of the model makes a tensor named `{min(missing)}`")
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in _reads(node) if name not in at_hand)
    return nodes[::-1]


def _input(name: str, arrays: Sequence[Array]) -> onnx.ValueInfoProto:
    from onnx import helper

    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise ModelError(f"`{name}` is no tensor: the model cannot be run in parts there")
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    if len({array.ndim for array in arrays}) > 1:
        return helper.make_tensor_value_info(name, kind, None)
    sizes = [set(found) for found in zip(*(array.shape for array in arrays), strict=True)]
    shape = [found.pop() if axis and len(found) == 1 else None for axis, found in enumerate(sizes)]
    return helper.make_tensor_value_info(name, kind, shape)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, also within its subgraphs; among those of the latter are some that they make."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            yield from (info.name for info in graph.output)
            for inner in graph.node:
                yield from _reads(inner)
