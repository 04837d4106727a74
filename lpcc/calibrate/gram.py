"""Sums of products of rows over all images, in memory that does not grow with their number.

Whatever a layer's weights W are, the squared error of ``X W`` against any target Y depends on the rows X that it reads
through ``X^T X`` and ``X^T Y`` alone. Where X and Y come from two models, these say how to mend one after the other.

    reader = Reader(model, [Patches("x", window)], 64)
    gram = Gram(window.groups, window.depth)
    for _, (patches,) in read(data, reader):
        gram.add(patches)
    covariance = gram.centred()
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpcc.calibrate.patches import NoPatches

Array = np.ndarray[Any, Any]

LARGEST_BYTES = 1 << 28
"""Memory that one sum of products may take."""
_BLOCK = 1024
"""Rows that are multiplied at once."""


class Gram:
    """``sum over rows of a^T b`` for each group, and the sums of a and of b.

    Rows are (..., groups, numbers); b is a itself where none is given. Products are formed of blocks of a fixed number
    of rows in float32 and summed up in float64: how the rows were batched makes no difference.

    Raises NoPatches when the products of one row would take too much memory.
    """

    def __init__(self, groups: int, left: int, right: int | None = None) -> None:
        size = groups * left * (right or left) * 8
        if size > LARGEST_BYTES:
            raise NoPatches(f"products of {left} by {right or left} numbers take {size >> 20} MB")
        self.rows = 0
        """How many rows were summed."""
        self._product: Array = np.zeros((groups, left, right or left))
        self._sums: tuple[Array, Array] = np.zeros((groups, left)), np.zeros((groups, right or left))
        self._own = right is None
        self._pending: list[tuple[Array, Array]] = []
        self._count = 0

    def add(self, left: Array, right: Array | None = None) -> None:
        """Add the products of rows a and rows b, as many of the one as of the other."""
        left = _rows(left)
        self._pending.append((left, left if right is None else _rows(right)))
        self._count += len(left)
        while self._count >= _BLOCK:
            self._take(_BLOCK)

    def join(self, other: Gram) -> None:
        """Add all that another one of the same sizes has summed up."""
        self._product += other.product
        for mine, others in zip(self._sums, other._sums, strict=True):
            mine += others
        self.rows += other.rows

    @property
    def product(self) -> Array:
        """``sum a^T b``, float64 (groups, left, right)."""
        self._take(self._count)
        return self._product

    @property
    def means(self) -> tuple[Array, Array]:
        """Means of a (groups, left) and of b (groups, right)."""
        self._take(self._count)
        count = max(self.rows, 1)
        return self._sums[0] / count, self._sums[1] / count

    @property
    def mean_product(self) -> Array:
        """``mean of a^T b``, (groups, left, right)."""
        return self.product / max(self.rows, 1)

    def centred(self) -> Array:
        """``mean of (a - mean a)^T (b - mean b)``, (groups, left, right)."""
        left, right = self.means
        centred: Array = self.mean_product - left[:, :, None] * right[:, None, :]
        return centred

    def _take(self, wanted: int) -> None:
        """Sum up the first `wanted` of the pending rows."""
        if not wanted:
            return
        pairs, taken = [], 0
        while taken < wanted:
            left, right = self._pending.pop(0)
            room = wanted - taken
            if len(left) > room:
                self._pending.insert(0, (left[room:], right[room:]))
                left, right = left[:room], right[:room]
            pairs.append((left, right))
            taken += len(left)
        self._count -= wanted
        self.rows += wanted
        left = np.concatenate([pair[0] for pair in pairs])
        right = left if self._own else np.concatenate([pair[1] for pair in pairs])
        self._product += np.matmul(left.transpose(1, 2, 0), right.transpose(1, 0, 2))
        self._sums[0][:] += left.sum(axis=0, dtype=np.float64)
        self._sums[1][:] += right.sum(axis=0, dtype=np.float64)


def _rows(values: Array) -> Array:
    """(..., groups, numbers) as (rows, groups, numbers), of float32 at least: half precision is none to sum up in."""
    return values.reshape(-1, *values.shape[-2:]).astype(np.result_type(values.dtype, np.float32), copy=False)
