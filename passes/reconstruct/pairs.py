"""Rows that a layer reads with those that it should make, in sum, and the weights that fit them best."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lpcc.calibrate.gram import Gram
from lpcc.calibrate.patches import NoPatches, Window
from lpcc.passes.reconstruct.reading import Reading, Sums, solved

Array = np.ndarray[Any, Any]

_RIDGES: Final = (1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the ridge that are tried, as shares of the mean square of what the layer reads."""


class Pairs:
    """Sums over rows X, (groups, depth), and rows Y, (groups, outputs), of their products and of both."""

    def __init__(self, window: Window) -> None:
        self._gram = Gram(window.groups, window.depth)
        self._cross = Gram(window.groups, window.depth, window.outputs)

    def add(self, read: Array, wanted: Array) -> None:
        """Take in rows (..., groups, depth) and as many rows (..., groups, outputs)."""
        if read.size:
            self._gram.add(read)
            self._cross.add(read, wanted)

    def join(self, other: Pairs) -> None:
        """Take in the rows of another one."""
        self._gram.join(other._gram)
        self._cross.join(other._cross)

    @property
    def finite(self) -> bool:
        """Whether all numbers were."""
        with np.errstate(invalid="ignore", over="ignore"):
            return bool(np.isfinite(self._gram.product).all() and np.isfinite(self._cross.product).all())

    @property
    def rows(self) -> int:
        """How many rows there were."""
        self._gram.means  # noqa: B018 - those that are waiting are counted then
        return self._gram.rows

    @property
    def wanted(self) -> Array:
        """Means of Y, (groups, outputs)."""
        return self._cross.means[1]

    def sums(self, layer: Reading) -> Sums:
        """What a layer reads: its second moments, centred where it has a bias, and means."""
        moments = self._gram.centred() if layer.takes_bias else self._gram.mean_product
        return Sums(moments, self._cross.means[0])

    def error(self, weights: Array, bias: Array) -> float:
        """Mean of ``|x W + b - y|^2``, less that of ``|y|^2``, which no fit changes."""
        read, wanted = self._cross.means
        squares = np.einsum("gdo,gde,geo->", weights, self._gram.mean_product, weights, optimize=True)
        products = (weights * self._cross.mean_product).sum()
        made = np.einsum("gd,gdo->go", read, weights)
        return float(squares - 2 * products + (bias * (2 * made + bias - 2 * wanted)).sum())

    def fit(self, layer: Reading, ridge: float) -> tuple[Array, Array]:
        """Weights (groups, depth, outputs) and bias (groups, outputs): ``(H + r I) W' = C + r W``.

        Raises NoPatches where there is no finite fit.
        """
        weights, sums = layer.matrix(), self.sums(layer)
        pull = self._cross.centred() if layer.takes_bias else self._cross.mean_product
        damped = sums.damped(ridge)
        fitted = solved(damped, pull + (damped - sums.gram) @ weights)
        return fitted, self.bias(layer, sums, fitted)

    def bias(self, layer: Reading, sums: Sums, weights: Array) -> Array:
        """What a layer must add so that with these weights it makes what is wanted in the mean, if it can."""
        return self.wanted - np.einsum("gd,gdo->go", sums.mean, weights) if layer.takes_bias else layer.bias()


def best_fit(layer: Reading, fit: Pairs, check: Pairs) -> tuple[Array, Array]:
    """The weights and the bias fitted to all rows, with the ridge whose fit to the first rows does best on the others.

    With the least ridge where there are no others. `fit` takes in `check`. Raises NoPatches where no fit does better
    than what the layer has, or there is none.
    """
    if not check.rows:
        return fit.fit(layer, _RIDGES[0])
    least, best = check.error(layer.matrix(), layer.bias()), 0.0
    for ridge in _RIDGES:
        error = check.error(*fit.fit(layer, ridge))
        if error < least:
            least, best = error, ridge
    if not best:
        raise NoPatches("no fit brings what it makes closer to what it made")
    fit.join(check)
    return fit.fit(layer, best)
