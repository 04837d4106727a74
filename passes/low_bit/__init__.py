"""Weights in formats below and beside int8: the pass `quantize-weights` and its parts."""

from __future__ import annotations

from lpcc.passes.low_bit.quantize_weights import QuantizeWeights

__all__ = ["QuantizeWeights"]
