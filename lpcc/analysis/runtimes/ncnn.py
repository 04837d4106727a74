"""ncnn: convolutions take in their activation, residual sums are layers of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lpcc.analysis.runtimes.base import MemoryRules
from lpcc.analysis.runtimes.cmsis_nn import CmsisNn

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel


@dataclass(frozen=True)
class Ncnn(CmsisNn):
    """ncnn's layers on an application processor."""

    def memory_rules(self) -> MemoryRules:
        """Activations work in place."""
        return MemoryRules(in_place=frozenset({"activation"}), alignment=64)

    def scratch(self, kernel: Kernel) -> int:  # noqa: ARG002
        """What ncnn's algorithms need besides is not known here."""
        return 0
