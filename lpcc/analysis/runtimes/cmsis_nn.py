"""CMSIS-NN under TensorFlow Lite for Microcontrollers: convolutions clamp, residual sums are kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lpcc.analysis.runtimes.base import Facts, IntegerRules, Runtime
from lpcc.analysis.runtimes.fusions import conv_chain, gemm_chain
from lpcc.analysis.runtimes.onnxruntime import FLOAT_OUTPUT, INTEGER, MOVES, PASSES_ON


@dataclass(frozen=True)
class CmsisNn(Runtime):
    """CMSIS-NN's kernels on a Cortex-M."""

    def integer_rules(self) -> IntegerRules:
        """How Q/DQ are read."""
        return IntegerRules(operators=INTEGER, passes_on=PASSES_ON, moves=MOVES, float_output=FLOAT_OUTPUT)

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A node and those that run in the same kernel."""
        if op == "Conv":
            return conv_chain(node, facts)
        return gemm_chain(node, op, facts)
