"""onnxruntime on this machine: running, timing, and reading what it makes of a model."""

from __future__ import annotations

from lpcc.runtime.fused import KernelCount, count_kernels, optimised
from lpcc.runtime.session import Session, with_outputs
from lpcc.runtime.spec import Array, TensorSpec
from lpcc.runtime.timing import Comparison, Timing, compare, measure, turns

__all__ = [
    "Array",
    "Comparison",
    "KernelCount",
    "Session",
    "TensorSpec",
    "Timing",
    "compare",
    "count_kernels",
    "measure",
    "optimised",
    "turns",
    "with_outputs",
]
