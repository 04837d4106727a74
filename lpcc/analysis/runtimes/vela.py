"""Arm's compiler Vela for Ethos-U: sums are kernels of their own, and channels lie in memory in groups of 16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc.analysis.runtimes.accelerator import Accelerator
from lpcc.analysis.runtimes.base import Facts
from lpcc.analysis.runtimes.fusions import conv_chain, gemm_chain
from lpcc.analysis.shapes import Shapes

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel, Operand

_BRICK = 16
_SLICES = 64 * 1024  # bytes; an estimate: how much is copied ahead depends on the time there is
_COPIED = frozenset({"conv", "pointwise", "depthwise", "grouped"})


@dataclass(frozen=True)
class Vela(Accelerator):
    """What ethos-u-vela 5.2 makes of a network, at its default setting: speed before memory."""

    def chain(self, node: gs.Node, op: str, facts: Facts) -> tuple[gs.Node, ...]:
        """A node and those that run in the same kernel."""
        return conv_chain(node, facts) if op == "Conv" else gemm_chain(node, op, facts)

    def keeps_packed(self) -> bool:
        """The compiler takes weights of 8 bits, and compresses them."""
        return False

    def scratch(self, kernel: Kernel) -> int:
        """The weights of a convolution are copied to SRAM before and while it runs, large ones in slices."""
        return min(kernel.weight_bytes, _SLICES) if kernel.kind in _COPIED else 0

    def finish(self, kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts) -> Iterator[Kernel]:
        """Feature maps inside the network have their channels rounded up to 16."""
        ends = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        for kernel in super().finish(kernels, graph, facts):
            inputs = tuple(_bricks(operand, ends, facts.shapes) for operand in kernel.inputs)
            outputs = tuple(_bricks(operand, ends, facts.shapes) for operand in kernel.outputs)
            yield replace(kernel, inputs=inputs, outputs=outputs)


def _bricks(operand: Operand, ends: set[int], shapes: Shapes) -> Operand:
    shape = shapes.of(operand.tensor)
    if id(operand.tensor) in ends or shape is None or len(shape) != 4 or shape[1] % _BRICK == 0:
        return operand
    return replace(operand, nbytes=operand.nbytes // shape[1] * (-(-shape[1] // _BRICK) * _BRICK))
