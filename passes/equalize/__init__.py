"""Exchanging scales and shifts between layers before they are rounded."""

from __future__ import annotations

from lpcc.passes.equalize.absorb_bias import AbsorbBias
from lpcc.passes.equalize.equalize import Equalize

__all__ = ["AbsorbBias", "Equalize"]
