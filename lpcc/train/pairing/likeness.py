"""How alike two layers are, whatever their widths, and how the layers of two networks line up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from lpcc.train.pairing.positions import common_grid, pooled

_GRID = 4
"""Positions along each axis that count as samples at most."""

One = TypeVar("One")
Other = TypeVar("Other")


class Likeness:
    """Linear centred kernel alignment of layers (samples, channels, positions...), positions counting as samples.

        CKA = <K, L> / (||K|| ||L||),    K = X X^T, L = Y Y^T

    for rows X and Y without their means: 1 where one is a rotation of the other, near 0 where they have nothing to do
    with each other. Kernels are kept: ask one `Likeness` for all layers of a batch.

    Kornblith et al.: Similarity of Neural Network Representations Revisited, 2019 (equation 3, as kernels).
    """

    def __init__(self) -> None:
        self._kernels: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def __call__(self, one: Tensor, other: Tensor) -> float:
        """0 to 1; 0 where one of the two is the same for all rows."""
        grid = tuple(min(_GRID, size) for size in common_grid(one, other))
        ours, theirs = self._kernel(one, grid), self._kernel(other, grid)
        norm = float(ours.norm() * theirs.norm())
        return float((ours * theirs).sum()) / norm if norm > 0 else 0.0

    def _kernel(self, layer: Tensor, grid: tuple[int, ...]) -> Tensor:
        key = (id(layer), grid)
        if key not in self._kernels:
            rows = pooled(layer.float(), grid).movedim(1, -1).flatten(0, -2)
            rows = rows - rows.mean(0)
            self._kernels[key] = rows @ rows.T, layer  # the layer is kept so that no other has its id
        return self._kernels[key][0]


def aligned(
    ours: Sequence[One], theirs: Sequence[Other], gain: Callable[[One, Other], float]
) -> list[tuple[One, Other]]:
    """The pairs of the highest total gain whose order is the same on both sides; what gains nothing is left out."""
    gains = [[gain(one, other) for other in theirs] for one in ours]
    best = [[0.0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in range(len(ours)):
        for j in range(len(theirs)):
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], best[i][j] + gains[i][j])
    found: list[tuple[One, Other]] = []
    i, j = len(ours), len(theirs)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((ours[i], theirs[j]))
    return found[::-1]
