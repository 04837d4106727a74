"""Counting instructions of emulated kernels, and fitting the formulas of kernel tables to them."""

from lpcc.targets.fit.instructions.held_out import checks, points

__all__ = ["checks", "points"]
