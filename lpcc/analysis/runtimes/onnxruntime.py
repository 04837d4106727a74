"""onnxruntime's CPU provider at its default level, as its versions 1.27 and 1.31 were seen to behave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.layout import view, with_layout
from lpcc.analysis.runtimes.base import Facts, IntegerRules, Runtime
from lpcc.analysis.runtimes.blocks import in_blocks
from lpcc.analysis.runtimes.fusions import AFTER_CONV, AFTER_GEMM, conv_chain, pads_window, with_activation
from lpcc.analysis.runtimes.patterns import groups
from lpcc.analysis.runtimes.removed import note_removed
from lpcc.analysis.runtimes.sums import with_sums
from lpcc.analysis.shapes import bits, constant_of

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

PASSES_ON = frozenset(["MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"])
"""Operators through which integers travel even if no QuantizeLinear follows."""

MOVES = PASSES_ON | frozenset(
    ["Flatten", "Resize", "Gather", "DepthToSpace", "Split", "Expand", "ReduceMax", "ReduceMin"]
)
"""Operators that run on integers where their input and output are quantised alike."""

INTEGER = {
    "Conv": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Mul": (0, 1),
    "AveragePool": (0,),
    "GlobalAveragePool": (0,),
    "LeakyRelu": (0,),
    "Sigmoid": (0,),
    "Softmax": (0,),
    "Where": (1, 2),
    "Concat": (),
}
"""Operators with an integer kernel, each with the inputs that must be dequantised (all of them for Concat)."""

FLOAT_OUTPUT = frozenset({"Gemm", "MatMul"})
"""Those whose integer kernel may also write float."""


_PLAIN = (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))
"""Attributes with which a Gemm is a matrix product and a sum."""

_LEADS = ("Conv", "MaxPool", "AveragePool", "MatMul", "Gemm", "MatMulInteger", "LayerNormalization", "ReduceMean")


def _norm(ops: list[str], name: str) -> str:
    return f"com.microsoft::Skip{name}" if ops[0] == "Add" else name


def _integer_product(ops: list[str]) -> str:
    dynamic = ops[0] == "DynamicQuantizeLinear"
    return "com.microsoft::DynamicQuantizeMatMul" if dynamic else "com.microsoft::MatMulIntegerToFloat"


_AMOUNTS_TO: dict[str, Callable[[list[str]], str]] = {
    "MatMulInteger": _integer_product,
    "MatMul": lambda ops: "Gemm" if "Add" in ops else "com.microsoft::FusedMatMul",
    "Erf": lambda _: "com.microsoft::Gelu",
    "Sqrt": lambda ops: _norm(ops, "LayerNormalization" if "Sub" in ops else "SimplifiedLayerNormalization"),
    "LayerNormalization": lambda ops: _norm(ops, "LayerNormalization"),
    "Sigmoid": lambda ops: ops[0] if "Mul" not in ops else "com.microsoft::QuickGelu",
    "Slice": lambda _: "Split",
    "Reshape": lambda _: "Reshape",
}
"""What a chain of several nodes amounts to, by an operator in it."""


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """onnxruntime, which differs by processor.

    On Arm it has integer kernels for signed activations; on x86 it turns those into unsigned ones where they have one
    reader, and leaves the rest in float, but blocks the channels of float convolutions.
    """

    @property
    def x86(self) -> bool:
        """Whether this is onnxruntime as built for x86."""
        return "x86" in self.isa

    def integer_rules(self) -> IntegerRules:
        """How Q/DQ are read."""
        return IntegerRules(
            operators=INTEGER,
            passes_on=PASSES_ON,
            moves=MOVES,
            float_output=FLOAT_OUTPUT,
            s8_activations=not self.x86,
            s8_to_u8=self.x86,
        )

    def prepare(self, graph: gs.Graph, facts: Facts) -> None:
        """Note what is dropped, and groups of operators that are recognised."""
        note_removed(graph, facts)
        facts.groups.update(groups(graph, facts, shuffles=self.x86))

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A node and those that run in the same kernel."""
        group = facts.groups.get(id(node))
        if group is not None:
            flat = self.name(group) == "Gemm" and len(facts.shapes.of(group[-1].outputs[0]) or ()) == 2
            return with_activation(group, facts, AFTER_GEMM) if flat else group
        if op == "Pad":
            after = facts.after([node])
            if after is not None and pads_window(node, after, facts):
                return (node, *self.chain(after, edit.op(after), facts))
        if op == "Conv":
            return conv_chain(node, facts, AFTER_CONV | {"HardSwish"} if self.x86 else AFTER_CONV)
        return with_activation((node,), facts, AFTER_GEMM) if op == "Gemm" else (node,)

    def lead(self, chain: tuple[gs.Node, ...]) -> gs.Node:
        """The node that computes most."""
        return next((node for node in chain if edit.op(node) in _LEADS), chain[0])

    def name(self, chain: tuple[gs.Node, ...]) -> str:
        """The operator that a chain amounts to."""
        ops = [edit.op(node) for node in chain]
        if len(ops) == 1:
            return ops[0]
        for op, amounts_to in _AMOUNTS_TO.items():
            if op in ops:
                return amounts_to(ops)
        return edit.op(self.lead(chain))

    def reads_integers(self, node: gs.Node, dequantize: gs.Node) -> bool:
        """MatMulNBits does: for weights (inputs, outputs) with scales for each output, or for blocks of its inputs.

        It is not made of a product with a Relu or Clip behind it.
        """
        op, weight = edit.op(node), dequantize.outputs[0]
        plain = op == "MatMul" or (
            op == "Gemm" and all(edit.attr(node, name, value) == value for name, value in _PLAIN)
        )
        if not plain or node.inputs[1] is not weight or bits(dequantize.inputs[0]) not in (2, 4, 8):
            return False
        block = int(edit.attr(dequantize, "block_size", 0))
        scale = constant_of(dequantize.inputs[1])
        if scale is None or weight.shape is None or len(weight.shape) != 2:
            return False
        if activation_after(node) is not None:
            return False
        return len(scale.shape) > 0 and int(edit.attr(dequantize, "axis", 1)) % 2 == (0 if block else 1)

    def finish(self, kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts) -> Iterable[Kernel]:
        """The kernels with changes of layout and sums in convolutions."""
        apart: set[int] = set()
        if self.x86:
            kernels, apart = in_blocks(kernels, graph, facts, self.block)
        kernels = with_sums(kernels, graph, facts, apart)
        kernels = _without_views(tuple(_parts(kernels, facts)), facts)
        return with_layout(kernels, graph.outputs, facts.shapes, through_views=self.x86)

    @property
    def block(self) -> int:
        """Channels in a block of a float convolution."""
        return 16 if "avx512" in self.isa else 8


def activation_after(node: gs.Node) -> gs.Node | None:
    """The Relu or Clip that alone reads what a matrix product makes, a constant bias added first or not."""
    while len(node.outputs[0].outputs) == 1:
        reader: gs.Node = node.outputs[0].outputs[0]
        if edit.op(reader) in ("Relu", "Clip"):
            return reader
        if edit.op(node) != "MatMul" or edit.op(reader) != "Add":
            break
        node = reader
    return None


def _parts(kernels: Iterable[Kernel], facts: Facts) -> Iterator[Kernel]:
    """The kernels, those that the runtime runs as several ones taken apart."""
    for kernel in kernels:
        if kernel.op == "HardSwish":
            yield replace(kernel, op="HardSigmoid")
            yield replace(kernel, op="Mul", inputs=(*kernel.inputs, *kernel.outputs))
        elif kernel.op == "Gemm" and len(facts.shapes.of(kernel.node.inputs[0]) or ()) > 2:
            yield view(kernel, kernel.inputs[0])
            yield kernel
            yield view(kernel, kernel.outputs[0])
        else:
            yield kernel


def _without_views(kernels: Sequence[Kernel], facts: Facts) -> list[Kernel]:
    """The kernels, with reshapes in a row as one."""
    uses = Counter(id(o.tensor) for kernel in kernels for o in kernel.inputs if kernel.nodes)
    out: list[Kernel | None] = []
    views: dict[int, int] = {}  # by what they write: where they stand
    for kernel in kernels:
        made = kernel
        if kernel.op in _RESHAPES and kernel.inputs:
            key = id(kernel.inputs[0].tensor)
            place = views.pop(key, None)
            before = None if place is None else out[place]
            if before is not None and uses[key] <= 1 and key not in facts.returned:
                out[place or 0] = None
                made = replace(kernel, op="Reshape", inputs=before.inputs, nodes=(*before.nodes, *kernel.nodes))
            views[id(made.outputs[0].tensor)] = len(out)
        out.append(made)
    return [kernel for kernel in out if kernel is not None]


_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")
