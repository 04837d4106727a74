"""Mixed precision: the pass `mixed-precision`."""

from __future__ import annotations

from lpcc.passes.precision.mixed_precision import MixedPrecision

__all__ = ["MixedPrecision"]
