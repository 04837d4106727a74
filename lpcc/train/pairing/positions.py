"""Layers (samples, channels, positions...) brought to the same positions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

_FLAT = 2
"""Rank of a layer without positions."""
_POOLS = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


def averaged(layer: Tensor) -> Tensor:
    """The mean over all positions: (samples, channels)."""
    return layer.flatten(_FLAT).mean(_FLAT) if layer.ndim > _FLAT else layer


def pooled(layer: Tensor, grid: Sequence[int]) -> Tensor:
    """Averaged to a grid of at most three axes, coarser than the layer's own; no axes: over all positions."""
    if tuple(layer.shape[_FLAT:]) == tuple(grid):
        return layer
    pooled: Tensor = _POOLS[len(grid)](layer, tuple(grid)) if grid else averaged(layer)
    return pooled


def common_grid(one: Tensor, other: Tensor) -> tuple[int, ...]:
    """Along each axis the coarser of two layers' positions; none for layers of different rank."""
    if one.ndim != other.ndim:
        return ()
    return tuple(min(sizes) for sizes in zip(one.shape[_FLAT:], other.shape[_FLAT:], strict=True))


def resized(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both layers on the same positions: along each axis the finer one is averaged to the coarser.

    Layers of different rank are averaged over all positions.
    """
    grid = common_grid(one, other)
    return pooled(one, grid), pooled(other, grid)
