"""Weights that were pruned stay zero while the others learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

Tensor = Any
Array = np.ndarray[Any, Any]

_MORE = 4
"""How much more often than a grid's other values zero must occur to be more than one of them."""


class Masks:
    """The pruned weights of a network, set back to zero after each step.

    A zero counts as pruned by the tensor that it is in. Only filters and matrices (two dimensions or more) are looked
    at, and only exact zeros. Trained floats are never exactly zero by accident, so even one is taken for pruned. But
    weights that were rounded to a grid have zeros that mean nothing: 0 is a value of the grid like its neighbours. So
    all zeros of a tensor are pruned, or none: they are where zero occurs more than four times as often as the most
    frequent other value, which for weights that differ from each other is always so. Grids may differ from row to row
    (along the first or second axis): their most frequent values are added up over the rows.

    A tensor of nothing but zeros is pruned as a whole.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        masks = ((weight, mask_of(weight)) for weight in weights)
        self._masks = [(weight, mask) for weight, mask in masks if mask is not None]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Masks:
        """The masks of parameters by name."""
        return cls(weights.values())

    @property
    def pruned(self) -> int:
        """Weights that are kept at zero."""
        return sum(int((~mask).sum()) for _, mask in self._masks)

    def apply(self) -> None:
        """Set pruned weights to zero, in place."""
        with torch.no_grad():
            for weight, mask in self._masks:
                weight.masked_fill_(~mask, 0)


def mask_of(weight: Tensor) -> Tensor | None:
    """True where a weight was not pruned; None where nothing was. See `Masks` for the rule."""
    if weight.ndim < 2 or not weight.is_floating_point():
        return None
    kept = weight.detach() != 0
    zeros = int((~kept).sum())
    if zeros == 0:
        return None
    values = weight.detach().float().cpu().numpy()
    grids = (
        values.reshape(1, -1),
        values.reshape(len(values), -1),
        np.moveaxis(values, 1, 0).reshape(values.shape[1], -1),
    )
    return kept if zeros > _MORE * max(_repeats(rows) for rows in grids) else None


def _repeats(rows: Array) -> int:
    """How often the most frequent value of each row other than zero comes again, over all rows."""
    ordered = np.sort(rows, axis=1)
    begins = np.ones(rows.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=rows.size)
    lengths[ordered.ravel()[starts] == 0] = 1
    row = starts // rows.shape[1]
    most = np.zeros(len(rows), np.int64)
    np.maximum.at(most, row, lengths)
    return int((most - 1).sum())
