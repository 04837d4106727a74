"""Factorisation: a layer with a large kernel becomes several with small ones (the survey's section III-B)."""

from __future__ import annotations

from lpcc.passes.factorize.factorize import Factorize

__all__ = ["Factorize"]
