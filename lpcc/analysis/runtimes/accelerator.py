"""Special hardware: a convolution, the sum and the activation after it are one pass, and Q/DQ only state formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc.analysis.runtimes.base import Facts, IntegerRules, MemoryRules, Runtime
from lpcc.analysis.runtimes.fusions import conv_chain, gemm_chain
from lpcc.analysis.runtimes.onnxruntime import MOVES, PASSES_ON

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel


@dataclass(frozen=True)
class Accelerator(Runtime):
    """An accelerator that its own compiler programs: no runtime converts formats or layouts."""

    def integer_rules(self) -> IntegerRules:
        """How Q/DQ are read."""
        return IntegerRules(
            operators=dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), (0, 1))
            | {"Where": (1, 2)}
            | dict.fromkeys(("Add", "Sub", "Mul", "Div", "Min", "Max", "Concat"), ()),
            otherwise=(0,),
            passes_on=PASSES_ON,
            moves=MOVES,
            float_output=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            clamps_contained=False,
        )

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A node and those that run in the same kernel."""
        if op == "Conv":
            return conv_chain(node, facts, residual=True)
        return gemm_chain(node, op, facts)

    def keeps_packed(self) -> bool:
        """Nobody unpacks them before they are used."""
        return True

    def memory_rules(self) -> MemoryRules:
        """What its own compiler is free to do."""
        return MemoryRules(overwrites_inputs=True, reorders=True)

    def finish(self, kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts) -> Iterator[Kernel]:  # noqa: ARG002
        """Conversions move no data: they are views."""
        for kernel in kernels:
            yield replace(kernel, kind="view") if kernel.kind in ("quantize", "dequantize") else kernel
