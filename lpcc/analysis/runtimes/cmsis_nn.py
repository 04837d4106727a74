"""CMSIS-NN under TensorFlow Lite for Microcontrollers: convolutions clamp, residual sums are kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.runtimes.base import Facts, IntegerRules, MemoryRules, Runtime
from lpcc.analysis.runtimes.fusions import conv_chain, gemm_chain
from lpcc.analysis.runtimes.onnxruntime import FLOAT_OUTPUT, INTEGER, MOVES, PASSES_ON

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

_MORE_INTEGER = {"Sub": (0, 1), "Tanh": (0,), "HardSwish": (0,), "ReduceMean": (0,), "Relu": (0,), "Clip": (0,)}
"""Operators with an integer kernel here that onnxruntime lacks."""

_MORE_MOVES = frozenset(["GlobalMaxPool", "Pad"])

_WIDE = frozenset(["Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "MaxPool"]) | frozenset(
    ["Softmax", "Sigmoid", "Tanh", "Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"]
)
"""Operators with a kernel for activations of 16 bits: README.md of CMSIS-NN 7.0.0, "Current Operator Support",
arm_nn_activation_s16, concatenation.cc of TensorFlow Lite for Microcontrollers; views need none."""


@dataclass(frozen=True)
class CmsisNn(Runtime):
    """CMSIS-NN's kernels on a Cortex-M."""

    def integer_rules(self) -> IntegerRules:
        """How Q/DQ are read."""
        return IntegerRules(
            operators=INTEGER | _MORE_INTEGER,
            passes_on=PASSES_ON,
            moves=MOVES | _MORE_MOVES,
            float_output=FLOAT_OUTPUT,
            clamps_contained=False,  # kernels take the limits of the activation as arguments
            wide=_WIDE,
        )

    def keeps_packed(self) -> bool:
        """Its kernels for s4 weights unpack them as they go (arm_convolve_s4 and others, since version 6)."""
        return True

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A node and those that run in the same kernel."""
        if op == "Conv":
            return conv_chain(node, facts)
        return gemm_chain(node, op, facts)

    def kind(self, node: gs.Node, op: str, facts: Facts) -> str:
        """Kernel kind. Images lie with channels last, so that bringing them there or back moves nothing."""
        channels_last = op == "Transpose" and edit.attr(node, "perm", None) in ([0, 2, 3, 1], [0, 3, 1, 2])
        return "view" if channels_last else super().kind(node, op, facts)

    def memory_rules(self) -> MemoryRules:
        """The arena of TensorFlow Lite for Microcontrollers shares nothing between input and output of a kernel."""
        return MemoryRules(in_place=frozenset())

    def scratch(self, kernel: Kernel) -> int:
        """The buffers that CMSIS-NN's integer convolutions ask for: two columns, or one window, in 16 bits."""
        loops = kernel.geometry
        if kernel.dtype not in ("int8", "int16"):
            return 0
        if kernel.kind == "conv":
            return 2 * 2 * loops.depth
        return 2 * loops.groups * loops.taps if kernel.kind == "depthwise" else 0
