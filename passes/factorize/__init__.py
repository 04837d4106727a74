"""Factorisation: a layer with a large kernel becomes several with small ones (the survey's section III-B)."""

from __future__ import annotations
