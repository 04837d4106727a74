"""Roundings of a layer from sums of products of what it reads and should write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpcc.calibrate.gram import Gram
from lpcc.passes.repair.gptq import chosen_scales, compensated, fitted, nearest, polished
from lpcc.passes.repair.layers import Rounding, Site
from lpcc.passes.repair.layerwise import Solver

Array = np.ndarray[Any, Any]

_RIDGES = (0.02, 0.2, 2.0)
"""How much the float weights count against what the images say; images kept apart choose."""
_DEEP = 2048
"""Depth from which on only the middle one is tried: the work grows with the cube."""


class Sums(Solver):
    """Fits the weights to the float layer's output by regularised least squares, rounds them and sets the bias.

    `compensate`: each rounding error is made good by the inputs that are still to be rounded; else all weights go to
    the nearest integer. `search`: the scales are chosen anew, channel by channel.
    """

    def __init__(self, site: Site, *, compensate: bool, search: bool = False) -> None:
        window = site.window
        self._site = site
        self._compensate = compensate
        self._search = search
        self._gram = Gram(window.groups, window.depth)
        self._cross = Gram(window.groups, window.depth, window.outputs)

    def add(self, read: Array, wanted: Array) -> None:
        """Sum up the products of rows."""
        self._gram.add(read)
        self._cross.add(read, wanted)

    def solve(self) -> Iterator[Rounding]:
        """A rounding for each strength of the regulariser."""
        current = self._site.current
        if current.bias is None:
            gram, cross = self._gram.mean_product, self._cross.mean_product
        else:
            gram, cross = self._gram.centred(), self._cross.centred()
        for ridge in _RIDGES if gram.shape[1] <= _DEEP else _RIDGES[1:2]:
            weights, damped = fitted(self._site, gram, cross, ridge)
            yield self._rounded(current, weights, damped)

    def _rounded(self, current: Rounding, weights: Array, gram: Array) -> Rounding:
        site, scales = self._site, current.scales.astype(np.float64)
        if self._search and site.layer.weights.axis is not None:
            scales = chosen_scales(site, current, weights, gram)
        if self._compensate:
            integers = compensated(site, weights, scales, gram)
            integers = polished(site, integers, weights, scales, gram)
        else:
            integers = nearest(site, weights, scales)
        bias = None
        if current.bias is not None:
            read, wanted = self._cross.means
            bias = wanted - np.einsum("gk,gko->go", read, integers * scales)
        return Rounding(integers, scales.astype(np.float32), bias)
