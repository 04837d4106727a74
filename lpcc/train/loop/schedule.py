"""The learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lpcc.train.recipe import Recipe

_LONGEST_WARMUP = 1 / 3
"""Share of all steps that a warm-up takes at most."""


@dataclass(frozen=True)
class Schedule:
    """The rate as a function of the step alone, so that nothing of it has to be kept.

    With ``W`` steps of warm-up out of ``T`` and ``p`` the peak, step ``t`` (from 0) has

        p (t + 1) / (W + 1)                                 while t < W
        p (1 + cos(pi (t - W) / (T - W))) / 2               afterwards ("SGDR", Loshchilov & Hutter 2017, no restarts)
    """

    peak: float
    warmup: int
    total: int
    cosine: bool

    @classmethod
    def of(cls, recipe: Recipe, steps: int, peak: float) -> Schedule:
        """The schedule of a recipe whose epochs have `steps` steps, and whose highest rate is `peak`."""
        total = recipe.epochs * steps
        warmup = min(round(recipe.warmup * steps), int(total * _LONGEST_WARMUP))
        return cls(peak, warmup, total, recipe.schedule == "cosine")

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0 over all epochs."""
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if not self.cosine:
            return self.peak
        return self.peak * (1 + math.cos(math.pi * (step - self.warmup) / (self.total - self.warmup))) / 2
