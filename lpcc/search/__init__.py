"""Choosing among many combinations: solvers that know nothing of networks."""

from __future__ import annotations

from lpcc.search.knapsack import Infeasible, choose, total

__all__ = ["Infeasible", "choose", "total"]
