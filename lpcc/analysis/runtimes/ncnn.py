"""ncnn: Winograd for most 3x3 convolutions, half precision where the processor has it, int8 in products alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.geometry import geometry
from lpcc.analysis.runtimes.base import Facts, IntegerRules, MemoryRules, Runtime
from lpcc.analysis.runtimes.fusions import conv_chain, gemm_chain

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_FEW = 8
"""Channels below which int8 does without Winograd's algorithm."""


@dataclass(frozen=True)
class Ncnn(Runtime):
    """ncnn's layers on an application processor, with its default options (fp16 storage and arithmetic, packing)."""

    def integer_rules(self) -> IntegerRules:
        """Convolutions and fully connected layers take int8 and may give floats; all else is float."""
        return IntegerRules(
            operators={"Conv": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1)},
            float_output=_PRODUCTS,
            float_clamps=frozenset({"Relu", "Clip"}),
            clamps_contained=False,
        )

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A convolution takes in its activation, x * sigmoid(x) is one layer (Swish); sums are layers of their own."""
        if op == "Conv":
            return conv_chain(node, facts)
        if op == "Sigmoid":
            after = next((n for n in node.outputs[0].outputs if edit.op(n) == "Mul"), None)
            alone = len(node.outputs[0].outputs) == 1 and id(node.outputs[0]) not in facts.returned
            if after is not None and alone and any(t is node.inputs[0] for t in after.inputs):
                return (node, after)
        return gemm_chain(node, op, facts)

    def kind(self, node: gs.Node, op: str, facts: Facts) -> str:
        """As everywhere, but 3x3 convolutions of stride 1 and at least 16 channels run by Winograd's algorithm."""
        if op == "BatchNormalization":  # scales and shifts; `norm` stands for those that sum up first
            return "elementwise"
        kind = super().kind(node, op, facts)
        if kind != "conv" or op != "Conv":
            return kind
        loops = geometry(node, facts.shapes)
        window = (loops.kh, loops.kw, loops.sh, loops.sw, loops.dh, loops.dw)
        return "winograd" if window == (3, 3, 1, 1, 1, 1) and max(loops.cin, loops.cout) >= 16 else kind

    def finish(self, kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts) -> Iterable[Kernel]:  # noqa: ARG002
        """In int8, processors with dot products do without Winograd's algorithm, as all do for few channels."""
        for kernel in kernels:
            few = "dotprod" in self.isa or min(kernel.geometry.cin, kernel.geometry.cout) < _FEW
            direct = kernel.kind == "winograd" and kernel.dtype == "int8" and few
            yield replace(kernel, kind="conv") if direct else kernel

    def number_format(self, node: gs.Node, op: str, facts: Facts) -> tuple[str, str]:
        """Floats are half precision where the processor computes in it."""
        found = super().number_format(node, op, facts)
        return ("float16", "float16") if found[0] == "float32" and "fp16" in self.isa else found

    def stored(self, dtype: np.dtype) -> np.dtype:
        """Half precision also in memory."""
        return np.dtype(np.float16) if dtype == np.float32 and "fp16" in self.isa else dtype

    def memory_rules(self) -> MemoryRules:
        """Activations work in place."""
        return MemoryRules(in_place=frozenset({"activation"}), alignment=64)

    def scratch(self, kernel: Kernel) -> int:  # noqa: ARG002
        """What ncnn's algorithms need besides is not known here."""
        return 0
