"""The pass `refit`: weights and biases fitted by least squares to what the layers before them became."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lpcc.passes.repair.gram_rounding import Sums
from lpcc.passes.repair.layers import Site
from lpcc.passes.repair.layerwise import LayerwiseRepair, Solver
from lpcc.pipeline import Context


@dataclass(frozen=True)
class Refit(LayerwiseRepair):
    """Let each layer make good, as far as it linearly can, what quantisation did to its input.

    With X what a layer reads in the quantised network and Y what it writes in the float one, both less their means,
    its weights W become the nearest integers to

        W' = (X^T X + r)^-1 (X^T Y + r W),     b' = E[y] - E[x] W'

    with a regulariser r that keeps them near the float weights W where the images say little. Layer after layer, so
    that each sees what the earlier ones became. Least squares against the float network's outputs as in He et al.,
    Channel pruning for accelerating very deep neural networks (2017, arXiv 1707.06168), section 3.1, for the following
    layer. `round-weights` starts with the same fit and then lets weights make good each other's rounding.

    Integers stay within the grid that the layer has. Runs behind `quantize`, towards the float network that this left
    in the context.

    Left alone, each with its reason: layers whose output on images kept apart comes no closer to the float one, layers
    that share their weights, transposed convolutions, weights of more than 8 bits, layers named in `skip`. All, half of
    the repairs and so on are taken back if the network's outputs on these images come no closer.
    """

    name: ClassVar[str] = "refit"
    what: ClassVar[str] = "weights and bias fitted to what the layer reads"

    def solver(self, site: Site, ctx: Context) -> Solver:
        """Sums of products, without compensation."""
        del ctx
        return Sums(site, compensate=False)
