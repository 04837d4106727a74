"""Which kernels the runtime really runs for a graph, and on how much data.

onnxruntime rewrites a graph before it runs it: constants are folded, a convolution takes in the batch norm, the
residual sum and the activation after it, and an operator between DequantizeLinear and QuantizeLinear becomes one
integer kernel in which those two disappear. What it cannot match stays as it is, and its conversions are paid for.
This analysis follows the rules that onnxruntime 1.31 was seen to apply on its CPU provider at its default level; a
test compares it with the optimised models that onnxruntime saves.

Not followed: GELU and layer norm spelt out in small operators, and what onnxruntime does inside If, Loop and Scan
beyond the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.integer import Group, Held, Integers
from lpcc.analysis.layout import with_layout
from lpcc.analysis.macs import CONVS, PRODUCTS, node_macs
from lpcc.analysis.shapes import Shapes, bind, bits, constant_of

Runtime = Literal["onnxruntime", "cmsis-nn"]


@dataclass(frozen=True)
class Operand:
    """An activation that a kernel reads or writes, in the form in which the runtime holds it."""

    tensor: gs.Tensor
    nbytes: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """One call into the runtime's library, for one or more nodes of the graph.

    `kind` is one of ``lpcc.cost.kinds`` or ``view`` (no data is touched); `dtype` the format that it computes in,
    ``int8`` for all integer kernels, whose `scheme` tells activations and weights apart (``u8s8``). `channels` are the
    output channels of a group, which the kernel pads; 0 where that does not apply. `elements` are output elements,
    times the window for pooling; input elements for reductions. `inner` is how deep in nested graphs it is. A change of
    layout that the runtime puts in has no `nodes`; its `node` is the one that it is made for.
    """

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
    inner: int = 0

    @property
    def bytes(self) -> int:
        """Bytes read and written: activations and weights, each once."""
        return sum(o.nbytes for o in self.inputs) + sum(o.nbytes for o in self.outputs) + self.weight_bytes


def kernels(
    graph: gs.Graph, shapes: Shapes | None = None, runtime: Runtime = "onnxruntime", *, x86: bool = False
) -> tuple[Kernel, ...]:
    """The kernels that `runtime` runs for an annotated graph, in order. Linear in the number of nodes.

    onnxruntime differs by processor. On Arm it has integer kernels for signed activations; with `x86` it turns those
    into unsigned ones where they have one reader, and leaves the rest in float, but blocks the channels of float
    convolutions.

    A nested graph's kernels, counted once, stand before the kernel of the node that holds it.
    """
    shapes = shapes or bind(graph)
    walk = _Walk(graph, shapes, runtime, Integers(s8_activations=not x86), rules.folded(graph))
    walk.run(graph)
    if runtime != "onnxruntime":
        return tuple(walk.kernels)
    return tuple(with_layout(walk.kernels, graph.outputs, shapes, blocked_floats=x86))


class _Walk:
    """One walk over a graph in order, which turns groups of nodes into kernels."""

    def __init__(
        self, graph: gs.Graph, shapes: Shapes, runtime: Runtime, integers: Integers, folded: set[int], inner: int = 0
    ) -> None:
        self.shapes = shapes
        self.runtime = runtime
        self.integers = integers
        self.folded = folded  # ids of tensors that are constants by the time the network runs
        self.inner = inner
        self.outputs = {id(tensor) for tensor in graph.outputs}
        self.kernels: list[Kernel] = []
        self._done: set[int] = set()
        self._waiting: dict[int, Kernel] = {}  # by the last node that they take in

    def run(self, graph: gs.Graph) -> None:
        for node in graph.nodes:
            if id(node) not in self._done:
                self._visit(node)
            if id(node) in self._waiting:
                self.kernels.append(self._waiting.pop(id(node)))
        for tensor in graph.outputs:
            held = self.integers.held(tensor)
            if held is not None:
                self._convert(tensor, held)

    def _visit(self, node: gs.Node) -> None:
        op = edit.op(node)
        if rules.folds(node, op, self.folded):
            return
        bodies = edit.subgraphs(node)
        for body in bodies:
            walk = _Walk(body, self.shapes, self.runtime, self.integers, self.folded, self.inner + 1)
            walk.run(body)
            self.kernels += walk.kernels
        if op in rules.DEQUANTIZE and self.integers.note_dequantize(node, self.folded):
            return
        if op in rules.QUANTIZE and self.integers.free_quantize(node):
            return
        group = None if bodies else self.integers.group(node, op, self._constant, self.outputs)
        if group is not None:
            self._integer(group, op)
        else:
            self._float(node, op)

    def _float(self, node: gs.Node, op: str) -> None:
        """A kernel on tensors as the graph has them, after the conversions that it needs."""
        nodes = self._chain(node, op)
        own = {id(tensor) for member in nodes for tensor in member.outputs}
        read: list[Held] = []
        for member in nodes:
            for tensor in member.inputs:
                if tensor.name == "" or id(tensor) in own or self._constant(tensor) or constant_of(tensor) is not None:
                    continue
                held = self.integers.held(tensor)
                if held is not None:
                    self._convert(tensor, held)
                read.append(Held(self.integers.holder(tensor), rules.dtype_of(tensor)))
        for dequantize in self.integers.weights_of(nodes):  # runs at every inference, as this is no integer kernel
            weight = Held(dequantize.outputs[0], rules.dtype_of(dequantize.outputs[0]))
            self.kernels.append(self._kernel("dequantize", "int8", "int8", dequantize, (dequantize,), [], [weight]))
        if edit.subgraphs(node):
            read += self._returned(node)
        written = [Held(tensor, rules.dtype_of(tensor)) for tensor in nodes[-1].outputs if tensor.name]
        dtype, scheme = rules.format_of(node, op, self.integers)
        self._wait(nodes, self._kernel(self._kind(node, op), dtype, scheme, node, nodes, read, written))

    def _returned(self, node: gs.Node) -> list[Held]:
        """What the nested graphs of a node return, and so hold until it has run."""
        tensors = [t for body in edit.subgraphs(node) for t in body.outputs if not self._constant(t)]
        return [Held(self.integers.holder(t), rules.dtype_of(t)) for t in tensors]

    def _integer(self, group: Group, op: str) -> None:
        node = group.nodes[0]
        members = (*group.nodes, *self.integers.weights_of(group.nodes))
        kind = self._kind(node, op)
        self._wait(group.nodes, self._kernel(kind, "int8", group.scheme, node, members, group.inputs, group.outputs))

    def _convert(self, tensor: gs.Tensor, held: Held) -> None:
        """A DequantizeLinear that stays: onnxruntime runs one for each reader in float."""
        node = self.integers.dequantizer(tensor)
        result = Held(tensor, rules.dtype_of(tensor))
        self.kernels.append(self._kernel("dequantize", "int8", "int8", node, (node,), [held], [result]))

    def _wait(self, nodes: tuple[gs.Node, ...], kernel: Kernel) -> None:
        """A kernel runs where the last of its nodes stands: only there all that it reads has been made."""
        self._done.update(id(node) for node in nodes)
        self._waiting[id(nodes[-1])] = kernel

    def _kernel(
        self,
        kind: str,
        dtype: str,
        scheme: str,
        node: gs.Node,
        members: tuple[gs.Node, ...],
        read: list[Held],
        written: list[Held],
    ) -> Kernel:
        distinct = {id(held.tensor): held for held in read}
        weights = {id(t): t for member in members for t in member.inputs if constant_of(t) is not None}
        op = edit.op(node)
        return Kernel(
            kind=kind,
            dtype=dtype,
            scheme=scheme,
            node=node,
            nodes=members,
            inputs=tuple(self._operand(held) for held in distinct.values()),
            outputs=tuple(self._operand(held) for held in written),
            weight_bytes=sum(self._bytes(constant_of(t)) for t in weights.values()),
            macs=node_macs(node, self.shapes),
            channels=self._channels(node, op),
            elements=self._elements(node, op, written),
            inner=self.inner,
        )

    def _operand(self, held: Held) -> Operand:
        return Operand(held.tensor, -(-self.shapes.elements(held.tensor) * rules.bits(held.dtype) // 8))

    def _bytes(self, tensor: gs.Constant | None) -> int:
        return 0 if tensor is None else -(-prod(tensor.shape) * bits(tensor) // 8)

    def _elements(self, node: gs.Node, op: str, written: list[Held]) -> int:
        if rules.KINDS.get(op) == "reduce" or op.startswith("Global") or "GlobalAveragePool" in op:
            return self.shapes.elements(node.inputs[0])
        count = sum(self.shapes.elements(held.tensor) for held in written)
        return count * prod(edit.attr(node, "kernel_shape", [])) if rules.KINDS.get(op) == "pool" else count

    def _kind(self, node: gs.Node, op: str) -> str:
        if op in CONVS:
            weight = self.shapes.of(edit.inp(node, CONVS[op]))
            group = int(edit.attr(node, "group", 1))
            if weight is None or len(weight) < 3 or op == "ConvTranspose":
                return "conv"
            if group > 1 and weight[1] == 1:
                return "depthwise"
            return "pointwise" if group == 1 and prod(weight[2:]) == 1 else "conv"
        if op in PRODUCTS:
            second = edit.inp(node, PRODUCTS[op])
            fixed = second is not None and (self._constant(second) or self.integers.is_weight(second))
            return "gemm" if fixed else "matmul"
        return rules.KINDS.get(op, "other")

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

    def _constant(self, tensor: gs.Tensor) -> bool:
        return isinstance(tensor, gs.Constant) or id(tensor) in self.folded

    def _chain(self, node: gs.Node, op: str) -> tuple[gs.Node, ...]:
        """The node and those after it that the runtime takes into the same kernel."""
        chain = [node]
        if op == "Conv" and self._constant(node.inputs[1]):
            while (after := self._after(chain)) is not None and self._affine(after):
                chain.append(after)
        if op == "Conv":
            after = self._after(chain)
            if self.runtime == "onnxruntime" and after is not None and self._sum(after):
                chain.append(after)
            after = self._after(chain)
            if after is not None and edit.op(after) in rules.AFTER_CONV and self._bounds_known(after):
                chain.append(after)
        elif op == "MatMul" and len(self.shapes.of(node.inputs[0]) or ()) == 2:
            after = self._after(chain)
            if after is not None and edit.op(after) == "Add" and any(self._constant(t) for t in after.inputs):
                chain.append(after)
        elif op == "Sigmoid":  # x * sigmoid(x)
            after = self._after(chain)
            if after is not None and edit.op(after) == "Mul" and any(t is node.inputs[0] for t in after.inputs):
                chain.append(after)
        if op == "Gemm" or (len(chain) > 1 and op == "MatMul"):
            after = self._after(chain)
            if after is not None and edit.op(after) in rules.AFTER_GEMM:
                chain.append(after)
        return tuple(chain)

    def _after(self, chain: list[gs.Node]) -> gs.Node | None:
        """The one reader of what the chain makes."""
        tensor = chain[-1].outputs[0]
        if len(tensor.outputs) != 1 or id(tensor) in self.outputs or id(tensor.outputs[0]) in self._done:
            return None
        reader: gs.Node = tensor.outputs[0]
        return reader

    def _affine(self, node: gs.Node) -> bool:
        """Whether a node after a convolution scales or shifts its channels by constants."""
        op = edit.op(node)
        if op == "BatchNormalization":
            return all(self._constant(t) for t in node.inputs[1:]) and not edit.attr(node, "training_mode", 0)
        if op not in ("Mul", "Add"):
            return False
        constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
        shape = self.shapes.of(node.outputs[0])
        if len(constants) != 1 or shape is None or len(shape) < 3:
            return False
        mine = tuple(constants[0].shape)
        wanted = (shape[1], *[1] * (len(shape) - 2))
        return mine in (wanted, (1, *wanted))

    def _sum(self, node: gs.Node) -> bool:
        """Whether a node after a convolution adds another activation of the same shape."""
        if edit.op(node) != "Add" or len(node.inputs) != 2:
            return False
        first, second = (self.shapes.of(t) for t in node.inputs)
        return first is not None and first == second and not any(self._constant(t) for t in node.inputs)

    def _bounds_known(self, node: gs.Node) -> bool:
        return edit.op(node) != "Clip" or all(t.name == "" or self._constant(t) for t in node.inputs[1:])
