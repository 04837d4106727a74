"""TensorFlow Lite (LiteRT) with XNNPACK: convolutions clamp, residual sums are kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lpcc.analysis.runtimes.base import IntegerRules, MemoryRules
from lpcc.analysis.runtimes.cmsis_nn import CmsisNn

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel


@dataclass(frozen=True)
class Tflite(CmsisNn):
    """TensorFlow Lite's kernels on an application processor."""

    def integer_rules(self) -> IntegerRules:
        """Activations of 16 bits are left to reference kernels, whose speed nobody states."""
        return replace(super().integer_rules(), wide=frozenset())

    def keeps_packed(self) -> bool:
        """Weights of convolutions are unpacked when the model is loaded."""
        return False

    def memory_rules(self) -> MemoryRules:
        """Its arena shares nothing between the input and the output of a kernel."""
        return MemoryRules(in_place=frozenset(), alignment=64)

    def scratch(self, kernel: Kernel) -> int:  # noqa: ARG002
        """XNNPACK reads inputs through pointers and copies no columns."""
        return 0
