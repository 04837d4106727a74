"""X-CUBE-AI (ST Edge AI Core) on STM32: like CMSIS-NN, which its integer kernels grew from."""

from __future__ import annotations

from dataclasses import dataclass

from lpcc.analysis.runtimes.cmsis_nn import CmsisNn


@dataclass(frozen=True)
class XCubeAi(CmsisNn):
    """X-CUBE-AI's kernels on a Cortex-M."""
