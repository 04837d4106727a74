"""Passes that train."""

from __future__ import annotations

from lpcc.passes.transfer.distill import Distill

__all__ = ["Distill"]
