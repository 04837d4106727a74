"""X-CUBE-AI (ST Edge AI Core) on STM32: like CMSIS-NN, which its integer kernels grew from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lpcc.analysis.runtimes.base import IntegerRules, MemoryRules
from lpcc.analysis.runtimes.cmsis_nn import CmsisNn

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

_IN_PLACE = frozenset({"elementwise", "activation", "quantize", "dequantize", "softmax"})
_WIDENS = 4
"""How many times its input the output of a 1x1 convolution may be to still overlap it, as ST's tables show."""
_ROWS = 5
_COLUMNS = 16


@dataclass(frozen=True)
class XCubeAi(CmsisNn):
    """X-CUBE-AI's kernels on a Cortex-M."""

    def integer_rules(self) -> IntegerRules:
        """No kernels for activations of 16 bits are documented."""
        return replace(super().integer_rules(), wide=frozenset())

    def keeps_packed(self) -> bool:
        """Its kernels for integers take 8 bits."""
        return False

    def memory_rules(self) -> MemoryRules:
        """Its generator lays outputs over inputs, also that of the network, and pools while it convolves."""
        return MemoryRules(in_place=_IN_PLACE, overwrites_inputs=True, pools_in_conv=True, alignment=4)

    def apart(self, kernel: Kernel, read: int, written: int) -> int | None:
        """Depthwise, strided and not too wide 1x1 convolutions write over their input, and so does pooling.

        They stay a window and a row behind what they read; convolutions have rows of it in their scratch memory. Found
        by comparing with the memory that ST publishes for the networks of its model zoo.
        """
        loops = kernel.geometry
        pointwise = kernel.kind in ("conv", "pointwise") and loops.taps == loops.groups == 1
        if pointwise and written > _WIDENS * read:
            return None
        if pointwise or (kernel.kind == "conv" and kernel.dtype == "int8" and loops.sh > 1):
            return 0
        if kernel.kind in ("depthwise", "pool") or (kernel.kind == "conv" and kernel.dtype != "int8"):
            return loops.kh * -(-read // max(1, loops.ih)) + -(-written // max(1, loops.oh))
        return None

    def scratch(self, kernel: Kernel) -> int:
        """Rows of the input and columns in 16 bits of an integer convolution, as many as ST's tables show."""
        loops = kernel.geometry
        if kernel.dtype != "int8" or kernel.kind != "conv" or loops.taps == 1:
            return 0
        return _ROWS * loops.iw * loops.groups * loops.cin + 2 * _COLUMNS * loops.depth
