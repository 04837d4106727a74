"""Factorisation: a layer with a large kernel becomes several with small ones (the survey's section III-B)."""

from __future__ import annotations

from lpcc.passes.factorize.factorize import Factorize
from lpcc.passes.factorize.learn_ranks import LearnRanks

__all__ = ["Factorize", "LearnRanks"]
