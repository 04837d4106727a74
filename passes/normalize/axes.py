"""Where each element goes when a tensor is reshaped and transposed, in terms of the factors of its axes.

An axis of 48 channels that Reshape splits into (2, 24) consists of a factor of 2, one step of which is 24 channels, and
a factor of 24 with steps of 1. Transpose moves axes about, Reshape joins and splits them; factors of unknown size can
be joined and moved but not split. If at the end every other axis is what it was, the factors in the place of the
channels say which channel stands where, whatever the size of the other axes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

Dim: TypeAlias = Hashable
"""A size: a number, or whatever stands for one that is not known, equal to another only if both sizes are equal."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor of an axis, by identity. `step` is what one step of it is in channels, 0 for other axes."""

    size: Dim
    step: int = 0


Axis: TypeAlias = tuple[Factor, ...]
"""The factors of one axis, outermost first; none for an axis of size 1."""


@dataclass(frozen=True)
class View:
    """A tensor that holds elements of another one, in another order."""

    source: tuple[Axis, ...]
    """The axes of the other tensor, of which axis 1 holds the channels."""
    axes: tuple[Axis, ...]
    first: int = 0
    """The channel from which the factors count."""

    @classmethod
    def of(cls, shape: Sequence[Dim]) -> View | None:
        """A tensor of that shape as a view of itself; None if it has no axis 1 of known size, or no elements."""
        if len(shape) < 2 or not isinstance(shape[1], int) or 0 in shape:
            return None
        axes = tuple(
            () if size == 1 else (Factor(size, step=1 if index == 1 else 0),) for index, size in enumerate(shape)
        )
        return cls(axes, axes)

    @property
    def channel_count(self) -> int:
        """Number of channels of the source."""
        return prod(factor.size for factor in self.source[1] if isinstance(factor.size, int))

    def transposed(self, order: Sequence[int]) -> View:
        """The view with its axes in another order."""
        return View(self.source, tuple(self.axes[axis] for axis in order), self.first)

    def reshaped(self, shape: Sequence[Dim]) -> View | None:
        """The view with another shape, in which 0 copies an axis and -1 takes what is left; None if it is not clear."""
        if list(shape).count(-1) > 1:
            return None
        rest = [factor for axis in self.axes for factor in axis]
        middle = list(shape).index(-1) if -1 in shape else len(shape)
        head: list[Axis] = []
        tail: list[Axis] = []
        for index in range(middle):
            taken = self._take(rest, shape[index], index, front=True)
            if taken is None:
                return None
            head.append(taken)
        for index in range(len(shape) - 1, middle, -1):
            taken = self._take(rest, shape[index], index, front=False)
            if taken is None:
                return None
            tail.insert(0, taken)
        if middle < len(shape):
            return View(self.source, (*head, tuple(rest), *tail), self.first)
        return None if rest else View(self.source, tuple(head), self.first)

    def picked(self, axis: int, index: int, keep: bool) -> View | None:
        """The elements at one position of an axis of channels, the axis of size 1 kept or not; None for other axes."""
        factors = self.axes[axis]
        size = prod(factor.size for factor in factors if isinstance(factor.size, int))
        if not factors or any(not factor.step for factor in factors) or not -size <= index < size:
            return None
        first = self.first + int(_channels(factors)[index])
        middle: tuple[Axis, ...] = ((),) if keep else ()
        return View(self.source, (*self.axes[:axis], *middle, *self.axes[axis + 1 :]), first)

    def channels(self) -> np.ndarray | None:
        """Which channel of the source stands at each position of axis 1; None if the other axes are not the same."""
        if len(self.axes) != len(self.source):
            return None
        for index, (old, new) in enumerate(zip(self.source, self.axes, strict=True)):
            if index != 1 and (len(old) != len(new) or any(a is not b for a, b in zip(old, new, strict=True))):
                return None
        if any(not factor.step for factor in self.axes[1]):
            return None
        return self.first + _channels(self.axes[1])

    def _take(self, rest: list[Factor], size: Dim, index: int, *, front: bool) -> Axis | None:
        """Take an axis of a size off one end of the factors that are left; None if they do not add up to it."""
        if size == 0:
            wanted = self.axes[index] if index < len(self.axes) else ()
            place = slice(len(wanted)) if front else slice(len(rest) - len(wanted), len(rest))
            if list(map(id, rest[place])) == list(map(id, wanted)):
                del rest[place]
                return wanted
            sizes = [factor.size for factor in wanted if isinstance(factor.size, int)]
            if len(sizes) != len(wanted):
                return None
            size = prod(sizes)
        if not isinstance(size, int):
            if not rest or rest[0 if front else -1].size != size:
                return None
            return (rest.pop(0 if front else -1),)
        taken: list[Factor] = []
        while size > 1:
            if not rest:
                return None
            factor = rest.pop(0 if front else -1)
            if not isinstance(factor.size, int):
                return None
            if size % factor.size == 0:
                taken.append(factor)
                size //= factor.size
                continue
            if factor.size % size:
                return None
            inner = factor.size // size if front else size
            parts = [Factor(factor.size // inner, factor.step * inner), Factor(inner, factor.step)]
            taken.append(parts.pop(0 if front else -1))
            rest.insert(0 if front else len(rest), parts[0])
            size = 1
        return tuple(taken if front else taken[::-1])


def _channels(factors: Sequence[Factor]) -> np.ndarray:
    """The channels that factors run through, in order."""
    total = np.zeros(1, dtype=np.int64)
    for factor in factors:
        steps = range(factor.size) if isinstance(factor.size, int) else ()
        total = (total[:, None] + np.array(steps, dtype=np.int64) * factor.step).reshape(-1)
    return total
