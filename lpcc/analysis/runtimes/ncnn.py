"""ncnn: convolutions take in their activation, residual sums are layers of their own."""

from __future__ import annotations

from dataclasses import dataclass

from lpcc.analysis.runtimes.cmsis_nn import CmsisNn


@dataclass(frozen=True)
class Ncnn(CmsisNn):
    """ncnn's layers on an application processor."""
