"""TensorFlow Lite (LiteRT) with XNNPACK: convolutions clamp, residual sums are kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass

from lpcc.analysis.runtimes.cmsis_nn import CmsisNn


@dataclass(frozen=True)
class Tflite(CmsisNn):
    """TensorFlow Lite's kernels on an application processor."""
