"""What sets runtimes apart, as one class with a method for each question that the walk over a graph asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.macs import CONVS, PRODUCTS
from lpcc.analysis.shapes import Shapes

if TYPE_CHECKING:
    from lpcc.analysis.integer import Integers
    from lpcc.analysis.kernels import Kernel


@dataclass(frozen=True)
class IntegerRules:
    """How a runtime reads Q/DQ: which operators between them become integer kernels.

    `operators`: those with an integer kernel, each with the inputs that must be dequantised; none listed stands for all
    of them. `otherwise`: the same for every operator that is not listed; None where those stay in float. `passes_on`:
    integers travel through these even if no QuantizeLinear follows. `moves`: these run on integers where input and
    output are quantised alike. `float_output`: their kernel may also write float, after an activation of
    `float_clamps`. `clamps`: activations that the requantisation before a QuantizeLinear may take in; if
    `clamps_contained`, only where that QuantizeLinear clamps at least as hard. `s8_activations`: whether integer
    kernels write s8. `s8_to_u8`: whether Q/DQ pairs in s8 with one reader are turned into u8. `wide`: operators with a
    kernel for activations in s16, with weights in s8.
    """

    operators: Mapping[str, tuple[int, ...]]
    otherwise: tuple[int, ...] | None = None
    passes_on: frozenset[str] = frozenset()
    moves: frozenset[str] = frozenset()
    float_output: frozenset[str] = frozenset()
    float_clamps: frozenset[str] = frozenset()
    clamps: frozenset[str] = frozenset({"Relu", "Clip"})
    clamps_contained: bool = True
    s8_activations: bool = True
    s8_to_u8: bool = False
    wide: frozenset[str] = frozenset()


@dataclass(frozen=True)
class MemoryRules:
    """How a runtime lays out activations.

    Kinds in `in_place` overwrite an input of the size of their output that nobody reads afterwards; an input of the
    network only where it `overwrites_inputs`. `pools_in_conv`: what a convolution makes for a pooling alone is never
    there as a whole. `reorders`: the runtime looks for the best order of execution by itself; else it keeps that of
    the file. Offsets are multiples of `alignment` bytes.
    """

    in_place: frozenset[str] = frozenset({"elementwise", "activation"})
    overwrites_inputs: bool = False
    pools_in_conv: bool = False
    reorders: bool = False
    alignment: int = 16


@dataclass(frozen=True)
class Facts:
    """What the rules of a runtime may ask about the graph that the walk is in.

    `folded` and `returned` hold ids: of tensors that are constants by the time the network runs, and of the graph's
    outputs. `integers` knows which tensors are held as integers by now, `done` the nodes that kernels have taken in.
    `removed` has the nodes that the runtime drops, each with the tensor that stands for its result; `shared` tensors
    that stand for others' results too, `groups` nodes that are recognised as one operator, by each of them. All three
    go by id; `Runtime.prepare` fills them.
    """

    shapes: Shapes
    folded: set[int]
    returned: set[int]
    integers: Integers
    done: set[int] = field(default_factory=set)
    removed: dict[int, gs.Tensor] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)
    groups: dict[int, tuple[gs.Node, ...]] = field(default_factory=dict)

    def constant(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is known before the network runs."""
        return isinstance(tensor, gs.Constant) or id(tensor) in self.folded

    def fixed(self, tensor: gs.Tensor | None) -> bool:
        """Whether a tensor is a constant or a dequantised one."""
        return tensor is not None and (self.constant(tensor) or self.integers.is_weight(tensor))

    def reader(self, tensor: gs.Tensor) -> gs.Node | None:
        """The one reader of a tensor that is no output of the graph; None if another kernel has taken it in."""
        while len(tensor.outputs) == 1 and id(tensor) not in self.returned and id(tensor) not in self.shared:
            if id(tensor.outputs[0]) in self.done:
                return None
            reader: gs.Node = tensor.outputs[0]
            if id(reader) not in self.removed:
                return reader
            tensor = reader.outputs[0]
        return None

    def after(self, chain: Iterable[gs.Node]) -> gs.Node | None:
        """The one reader of what the last node of a chain makes."""
        *_, last = chain
        return self.reader(last.outputs[0])


@dataclass(frozen=True)
class Runtime:
    """A runtime on a processor with the instruction sets `isa`. What is here holds for a plain one that fuses nothing.

    A runtime of its own overrides what differs. Methods must be cheap: the walk asks them for every node.
    """

    isa: frozenset[str] = frozenset()

    def prepare(self, graph: gs.Graph, facts: Facts) -> None:
        """Note in `facts` what the runtime drops and recognises in a graph, without its subgraphs."""

    def integer_rules(self) -> IntegerRules:
        """How Q/DQ are read."""
        return IntegerRules(operators={})

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:  # noqa: ARG002
        """A node and those that run in the same kernel on floats, in order; the last one makes the result.

        `node` is the first of them in the graph that no kernel has taken in.
        """
        return (node,)

    def lead(self, chain: tuple[gs.Node, ...]) -> gs.Node:
        """The node of a chain that gives the kernel its shape, its multiply-accumulates and its name in reports."""
        return chain[0]

    def name(self, chain: tuple[gs.Node, ...]) -> str:
        """The operator that a chain amounts to, which gives the kernel its kind; domains other than ONNX's in front."""
        return edit.op(self.lead(chain))

    def kind(self, node: gs.Node, op: str, facts: Facts) -> str:
        """Kernel kind, one of ``lpcc.cost.kinds`` or ``view``: the algorithm that is chosen for a node's shapes."""
        if op in CONVS:
            return conv_kind(node, op, facts.shapes)
        if op in PRODUCTS:
            return "gemm" if facts.fixed(edit.inp(node, PRODUCTS[op])) else "matmul"
        return rules.KINDS.get(op, "other")

    def number_format(self, node: gs.Node, op: str, facts: Facts) -> tuple[str, str]:
        """Number format and scheme that a kernel on floats, or an operator on integers by itself, computes in."""
        return rules.format_of(node, op, facts.integers)

    def stored(self, dtype: np.dtype) -> np.dtype:
        """The format in which activations and weights of a graph's `dtype` lie in memory."""
        return dtype

    def keeps_packed(self) -> bool:
        """Whether weights of fewer than 8 bits that become int8 stay packed while the network runs."""
        return False

    def reads_integers(self, node: gs.Node, dequantize: gs.Node) -> bool:  # noqa: ARG002
        """Whether a kernel that computes in floats reads the integers of its weights by itself."""
        return False

    def memory_rules(self) -> MemoryRules:
        """How activations share memory."""
        return MemoryRules()

    def apart(self, kernel: Kernel, read: int, written: int) -> int | None:  # noqa: ARG002
        """Bytes that an input of `read` bytes and the output of `written` ones must be apart where they overlap.

        None where they may not overlap, besides `MemoryRules.in_place`.
        """
        return None

    def scratch(self, kernel: Kernel) -> int:  # noqa: ARG002
        """Bytes of memory that a kernel needs beside its inputs and outputs while it runs."""
        return 0

    def finish(self, kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts) -> Iterable[Kernel]:  # noqa: ARG002
        """The kernels of the whole graph after what is done once they are all known: changes of layout."""
        return kernels


def conv_kind(node: gs.Node, op: str, shapes: Shapes) -> str:
    """Kind of a convolution by its shape alone: depthwise, grouped, 1x1, or any other."""
    weight = shapes.of(edit.inp(node, CONVS[op]))
    group = int(edit.attr(node, "group", 1))
    if weight is None or len(weight) < 3 or op == "ConvTranspose":
        return "conv"
    if group > 1 and weight[1] == 1:
        return "depthwise"
    if group > 1:
        return "grouped"
    return "pointwise" if prod(weight[2:]) == 1 else "conv"
