"""The pass `round-weights`: rounding with second-order error compensation, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lpcc.calibrate.patches import NoPatches
from lpcc.passes.repair.gram_rounding import Sums
from lpcc.passes.repair.layers import ON_GRID, Site
from lpcc.passes.repair.layerwise import LayerwiseRepair, Solver
from lpcc.pipeline import Context


@dataclass(frozen=True)
class RoundWeights(LayerwiseRepair):
    """Round weights anew such that errors of one are made good by others, and by what the layer really reads.

    For one layer after the other, with X what it reads in the quantised network as repaired so far and Y what it writes
    in the float one, both less their means, the weights W' that bring it closest come from

        (X^T X + r) W' = X^T Y + r W

    with the float weights W and a regulariser r, of which three strengths are tried. These are rounded input by input,
    largest variance first, to the scale's nearest integer; the error e of input k moves the inputs still to come by
    ``-e U[k, :] / U[k, k]``, with U the upper Cholesky factor of the inverse of ``X^T X + r``. Frantar, Singh,
    Alistarh, Optimal brain compression (2022, arXiv 2208.11580), and Frantar et al., GPTQ (2022, arXiv 2210.17323).
    A round of descent over single integers follows: Behdin et al., QuantEase (2023, arXiv 2309.01885). The
    bias takes up the means. Of the images only sums of products are kept (`lpcc.calibrate.gram`).

    Integers stay within the grid that the layer has, as does its number of bits. Runs behind `quantize`, towards the
    float network that this left in the context.

    Left alone, each with its reason: layers whose float weights lie on the grid already, which `refit` may move; layers
    whose output on images kept apart comes no closer to the float one, layers
    that share their weights, transposed convolutions, weights of more than 8 bits, layers named in `skip`. All, half of
    the repairs and so on are taken back if the network's outputs on these images come no closer.
    """

    name: ClassVar[str] = "round-weights"
    what: ClassVar[str] = "weights rounded with compensation"

    scales: Literal["keep", "search"] = "keep"
    """Whether scales per channel are kept, or chosen anew for the fitted weights."""

    def solver(self, site: Site, ctx: Context) -> Solver:
        """Sums of products, with compensation."""
        del ctx
        if site.is_on_grid and self.scales == "keep":
            raise NoPatches(ON_GRID)
        return Sums(site, compensate=True, search=self.scales == "search")
