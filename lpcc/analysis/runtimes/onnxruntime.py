"""onnxruntime's CPU provider at its default level, as its versions 1.27 and 1.31 were seen to behave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.layout import with_layout
from lpcc.analysis.runtimes.base import Facts, IntegerRules, Runtime
from lpcc.analysis.runtimes.fusions import conv_chain, gemm_chain
from lpcc.analysis.shapes import Shapes

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

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A node and those that run in the same kernel."""
        if op == "Conv":
            return conv_chain(node, facts, residual=True)
        if op == "Sigmoid":  # x * sigmoid(x)
            after = facts.after([node])
            if after is not None and edit.op(after) == "Mul" and any(t is node.inputs[0] for t in after.inputs):
                return (node, after)
        return gemm_chain(node, op, facts)

    def finish(self, kernels: Iterable[Kernel], graph: gs.Graph, shapes: Shapes) -> Iterable[Kernel]:
        """The kernels with changes of layout."""
        return with_layout(tuple(kernels), graph.outputs, shapes, blocked_floats=self.x86)
