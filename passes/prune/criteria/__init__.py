"""Criteria: how much each channel of a graph matters."""

from __future__ import annotations

from typing import Final

from lpcc.passes.prune.criteria.activations import Energy, ZeroShare
from lpcc.passes.prune.criteria.base import Criterion, normalised
from lpcc.passes.prune.criteria.control import Random
from lpcc.passes.prune.criteria.gradients import Fisher, Hessian, Taylor
from lpcc.passes.prune.criteria.particles import Particles
from lpcc.passes.prune.criteria.propagation import Propagated
from lpcc.passes.prune.criteria.reconstruction import Reconstruction
from lpcc.passes.prune.criteria.weights import L1, L2, BatchNormScale, GeometricMedian

__all__ = ["CRITERIA", "Criterion", "criterion", "normalised"]

CRITERIA: Final[tuple[type[Criterion], ...]] = (
    Reconstruction,
    L1,
    L2,
    BatchNormScale,
    GeometricMedian,
    ZeroShare,
    Energy,
    Taylor,
    Fisher,
    Hessian,
    Propagated,
    Particles,
    Random,
)
"""All of them."""


def criterion(name: str) -> Criterion:
    """The criterion of a name. Raises KeyError where there is none."""
    return {found.name: found for found in CRITERIA}[name]()
