"""Quantisation: the pass `quantize` and its parts."""

from __future__ import annotations

from lpcc.passes.quantize.quantize import Quantize

__all__ = ["Quantize"]
