"""Layers made to make again what they made before: least squares in closed form, from sums over images."""

from __future__ import annotations

from lpcc.passes.reconstruct.in_order import InOrder, behind
from lpcc.passes.reconstruct.pairs import Pairs, best_fit
from lpcc.passes.reconstruct.reading import Reading, Sums, by_result, fingerprint, rows_per_image, solved, sums_of

__all__ = [
    "InOrder",
    "Pairs",
    "Reading",
    "Sums",
    "behind",
    "best_fit",
    "by_result",
    "fingerprint",
    "rows_per_image",
    "solved",
    "sums_of",
]
