"""Which kernels the runtime really runs for a graph, and on how much data.

A runtime rewrites a graph before it runs it: constants are folded, a convolution takes in the batch norm, the
residual sum and the activation after it, and an operator between DequantizeLinear and QuantizeLinear becomes one
integer kernel in which those two disappear. What it cannot match stays as it is, and its conversions are paid for.
One walk over the graph does that for all runtimes; ``lpcc.analysis.runtimes`` holds the rules that set them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from math import prod

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.geometry import Geometry, geometry
from lpcc.analysis.integer import Group, Held, Integers
from lpcc.analysis.macs import CONVS, PRODUCTS, node_macs
from lpcc.analysis.operand import Operand
from lpcc.analysis.packed import stored_constants
from lpcc.analysis.runtimes import Facts, Runtime, runtime_of
from lpcc.analysis.shapes import Shapes, bind, constant_of

__all__ = ["Kernel", "Operand", "Resizable", "kernels"]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One call into the runtime's library, for one or more nodes of the graph.

    `op` is the operator that it amounts to, which may be none of the graph's (``LayerNormalization``).
    `kind` is one of ``lpcc.cost.kinds`` or ``view`` (no data is touched); `dtype` the format that it computes in,
    ``int8`` for integer kernels, whose `scheme` tells activations and weights apart (``u8s8``), or ``int16`` for those
    with activations of 16 bits. `channels` are the
    output channels of a group, which the kernel pads; 0 where that does not apply. `elements` are output elements,
    times the window for pooling; input elements for reductions. `geometry` are its loop bounds. `inner` is how deep
    in nested graphs it is, `blocked` whether it works in a layout of the runtime's own, blocks of channels or channels
    last. A change of layout that the runtime puts in has no `nodes`; its `node` is the one that it is made for.
    """

    op: str
    kind: str
    dtype: str
    scheme: str
    node: gs.Node
    nodes: tuple[gs.Node, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    weight_bytes: int
    macs: int
    channels: int
    elements: int
    geometry: Geometry = Geometry()  # noqa: RUF009 - frozen
    inner: int = 0
    blocked: bool = False

    @property
    def bytes(self) -> int:
        """Bytes read and written: activations and weights, each once."""
        return sum(o.nbytes for o in self.inputs) + sum(o.nbytes for o in self.outputs) + self.weight_bytes


def kernels(
    graph: gs.Graph, shapes: Shapes | None = None, runtime: str = "onnxruntime", isa: Iterable[str] = ()
) -> tuple[Kernel, ...]:
    """The kernels that `runtime` runs for an annotated graph, in order. Linear in the number of nodes.

    `runtime` is a name of ``lpcc.analysis.runtimes``; what it runs may depend on the instruction sets `isa` of the
    processor, as a target names them (``aarch64``, ``x86``). A nested graph's kernels, counted once, stand before the
    kernel of the node that holds it.
    """
    return Resizable(graph, shapes or bind(graph), runtime, isa).kernels()


class Resizable:
    """The kernels of a graph whose tensors change their sizes, and nothing else of it changes.

    Which nodes run together is found once. Its owner changes the sizes, in the graph and in `shapes`.
    """

    def __init__(self, graph: gs.Graph, shapes: Shapes, runtime: str = "onnxruntime", isa: Iterable[str] = ()) -> None:
        self._graph = graph
        self._runtime = runtime_of(runtime, isa)
        walk = _Walk(graph, shapes, self._runtime, Integers(self._runtime.integer_rules()), rules.folded(graph))
        walk.run(graph)
        self._facts = walk.facts
        self._kernels = walk.kernels
        self._again = walk.again

    def kernels(self, resized: Iterable[gs.Tensor] = ()) -> tuple[Kernel, ...]:
        """The kernels after these tensors have got other sizes, since the last call."""
        places = {place for tensor in resized for place in self._touching.get(id(tensor), ())}
        for place in places:
            measure = self._again.pop(id(self._kernels[place]))
            self._kernels[place] = measure()
            self._again[id(self._kernels[place])] = measure
        return tuple(self._runtime.finish(self._kernels, self._graph, self._facts))

    @cached_property
    def _touching(self) -> dict[int, set[int]]:
        """By id of a tensor: which kernels read or make it."""
        found: dict[int, set[int]] = {}
        for place, kernel in enumerate(self._kernels):
            held = [operand.tensor for operand in (*kernel.inputs, *kernel.outputs)]
            for tensor in chain(held, *(chain(node.inputs, node.outputs) for node in kernel.nodes)):
                found.setdefault(id(tensor), set()).add(place)
        return found


_Known = tuple[str, str, str, gs.Node, tuple[gs.Node, ...], list[Held], list[Held]]
"""What of a kernel no size changes: operator, formats, its main node, all its nodes, what it reads and writes."""


class _Walk:
    """One walk over a graph in order, which turns groups of nodes into kernels."""

    def __init__(
        self, graph: gs.Graph, shapes: Shapes, runtime: Runtime, integers: Integers, folded: set[int], inner: int = 0
    ) -> None:
        self.shapes = shapes
        self.runtime = runtime
        self.integers = integers
        self.folded = folded
        self.inner = inner
        self.facts = Facts(shapes, folded, {id(tensor) for tensor in graph.outputs}, integers)
        self.kernels: list[Kernel] = []
        self.again: dict[int, Callable[[], Kernel]] = {}
        """By the id of a kernel: a function that makes it anew, of the sizes as they are then."""
        self._waiting: dict[int, Kernel] = {}  # by the last node that they take in

    def run(self, graph: gs.Graph) -> None:
        self.runtime.prepare(graph, self.facts)
        for node in graph.nodes:
            if id(node) not in self.facts.done:
                self._visit(node)
            if id(node) in self._waiting:
                self.kernels.append(self._waiting.pop(id(node)))
        for tensor in graph.outputs:
            held = self.integers.held(tensor)
            if held is not None:
                self._convert(tensor, held)

    def _visit(self, node: gs.Node) -> None:
        op = edit.op(node)
        if rules.folds(node, op, self.folded) or self._dropped(node):
            return
        bodies = edit.subgraphs(node)
        for body in bodies:
            walk = _Walk(body, self.shapes, self.runtime, self.integers, self.folded, self.inner + 1)
            walk.run(body)
            self.kernels += walk.kernels
            self.again |= walk.again
        if op in rules.DEQUANTIZE and self.integers.note_dequantize(node, self.folded):
            return
        if op in rules.QUANTIZE and self.integers.free_quantize(node):
            return
        core = self.facts.groups.get(id(node), (node,))
        known, returned = self.facts.constant, self.facts.returned
        group = None if bodies else self.integers.group(core, self.runtime.name(core), known, returned)
        if group is not None:
            self._integer(group)
        else:
            self._float(node, op)

    def _dropped(self, node: gs.Node) -> bool:
        """Whether a node is none by the time the network runs; where its result is one of the network's, it stays."""
        if id(node) not in self.facts.removed or id(node.outputs[0]) in self.facts.returned:
            return False
        self.integers.pass_on(self.facts.removed[id(node)], node.outputs[0])
        return True

    def _ending(self, nodes: tuple[gs.Node, ...]) -> tuple[gs.Node, ...]:
        """The nodes of a kernel with those after it that are dropped up to an output of the network."""
        ending: list[gs.Node] = []
        tensor = nodes[-1].outputs[0]
        while len(tensor.outputs) == 1 and id(tensor.outputs[0]) in self.facts.removed:
            if id(tensor) in self.facts.returned:
                break
            ending.append(tensor.outputs[0])
            tensor = tensor.outputs[0].outputs[0]
        return (*nodes, *ending) if ending and id(tensor) in self.facts.returned else nodes

    def _float(self, node: gs.Node, op: str) -> None:
        """A kernel on tensors as the graph has them, after the conversions that it needs."""
        together = self.runtime.chain(node, op, self.facts)
        nodes = self._ending(together)
        node, op = self.runtime.lead(together), self.runtime.name(together)
        own = {id(tensor) for member in nodes for tensor in member.outputs}
        read: list[Held] = []
        for member in nodes:
            for tensor in member.inputs:
                if (
                    tensor.name == ""
                    or id(tensor) in own
                    or self.facts.constant(tensor)
                    or constant_of(tensor) is not None
                ):
                    continue
                held = self.integers.held(tensor)
                if held is not None:
                    self._convert(tensor, held)
                kept = tensor if held is not None else self.integers.holder(tensor)
                read.append(Held(kept, rules.dtype_of(tensor)))
        taken = []
        for dequantize in self.integers.weights_of(nodes):
            if self.runtime.reads_integers(node, dequantize):
                taken.append(dequantize)
                continue
            # It runs at every inference, as this is no integer kernel.
            weight = Held(dequantize.outputs[0], rules.dtype_of(dequantize.outputs[0]))
            self.kernels.append(self._dequantize(dequantize, [], weight))
        if edit.subgraphs(node):
            read += self._returned(node)
        results = [t for t in nodes[-1].outputs if t.name]
        if op == "Split":
            results = [t for member in nodes for t in member.outputs if t.name]
        written = [Held(tensor, rules.dtype_of(tensor)) for tensor in results]
        dtype, scheme = self.runtime.number_format(node, op, self.facts)
        self._wait(nodes, self._kernel(op, dtype, scheme, node, (*nodes, *taken), read, written))

    def _returned(self, node: gs.Node) -> list[Held]:
        """What the nested graphs of a node return, and so hold until it has run."""
        tensors = [t for body in edit.subgraphs(node) for t in body.outputs if not self.facts.constant(t)]
        return [Held(self.integers.holder(t), rules.dtype_of(t)) for t in tensors]

    def _integer(self, group: Group) -> None:
        node, op = group.nodes[0], group.op
        members = (*group.nodes, *self.integers.weights_of(group.nodes))
        self._wait(
            group.nodes, self._kernel(op, group.format, group.scheme, node, members, group.inputs, group.outputs)
        )

    def _convert(self, tensor: gs.Tensor, held: Held) -> None:
        """A DequantizeLinear that stays: onnxruntime runs one for each reader in float."""
        node = self.integers.dequantizer(tensor)
        result = Held(tensor, rules.dtype_of(tensor))
        self.kernels.append(self._dequantize(node, [held], result))

    def _dequantize(self, node: gs.Node, read: list[Held], result: Held) -> Kernel:
        return self._kernel("DequantizeLinear", "int8", "int8", node, (node,), read, [result])

    def _wait(self, nodes: tuple[gs.Node, ...], kernel: Kernel) -> None:
        """A kernel runs where the last of its nodes stands: only there all that it reads has been made."""
        self.facts.done.update(id(node) for node in nodes)
        self._waiting[id(nodes[-1])] = kernel

    def _kernel(self, *known: *_Known) -> Kernel:
        kernel = self._measured(*known)
        self.again[id(kernel)] = partial(self._measured, *known)
        return kernel

    def _measured(
        self,
        op: str,
        dtype: str,
        scheme: str,
        node: gs.Node,
        members: tuple[gs.Node, ...],
        read: list[Held],
        written: list[Held],
    ) -> Kernel:
        distinct = {id(held.tensor): held for held in read}
        weights = {id(t): t for member in members for t in member.inputs if self._is_weight(t)}
        return Kernel(
            op=op,
            kind=self.runtime.kind(node, op, self.facts),
            dtype=dtype,
            scheme=scheme,
            node=node,
            nodes=members,
            inputs=tuple(self._operand(held) for held in distinct.values()),
            outputs=tuple(self._operand(held) for held in written),
            weight_bytes=sum(map(self._bytes, weights.values())),
            macs=node_macs(node, self.shapes),
            channels=self._channels(node, op),
            elements=self._elements(node, op, written),
            geometry=geometry(node, self.shapes),
            inner=self.inner,
        )

    def _operand(self, held: Held) -> Operand:
        count = self.shapes.elements(held.tensor)
        return Operand(held.tensor, -(-count * rules.bits(self.runtime.stored(held.dtype)) // 8), count)

    def _is_weight(self, tensor: gs.Tensor) -> bool:
        return constant_of(tensor) is not None or (bool(tensor.name) and self.facts.constant(tensor))

    def _bytes(self, weight: gs.Tensor) -> int:
        tensor = constant_of(weight)
        packed = () if tensor is not None or not self.runtime.keeps_packed() else stored_constants(weight)
        if packed:
            return sum(map(self._bytes, packed))
        if tensor is None:  # computed from constants when the model is loaded
            return self._operand(Held(weight, rules.dtype_of(weight))).nbytes
        width = rules.bits(self.runtime.stored(rules.dtype_of(tensor)))
        size: int = prod(tensor.shape)
        return -(-size * width // 8)

    def _elements(self, node: gs.Node, op: str, written: list[Held]) -> int:
        if rules.KINDS.get(op) == "reduce" or op.startswith("Global") or "GlobalAveragePool" in op:
            return self.shapes.elements(node.inputs[0])
        count = sum(self.shapes.elements(held.tensor) for held in written)
        return count * prod(edit.attr(node, "kernel_shape", [])) if rules.KINDS.get(op) == "pool" else count

    def _channels(self, node: gs.Node, op: str) -> int:
        if op in CONVS:
            weight = self.shapes.of(edit.inp(node, CONVS[op]))
            group = int(edit.attr(node, "group", 1))
            if weight is None or len(weight) < 2:
                return 0
            if op == "ConvTranspose":
                return weight[1]
            return weight[0] if weight[1] == 1 else weight[0] // group
        if op in PRODUCTS:
            result = self.shapes.of(edit.out(node))
            return result[-1] if result else 0
        return 0
