"""What a layer becomes: a few layers, one after the other, whose product is its weights or close to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lpcc.passes.factorize.form import Form

Array = np.ndarray[Any, Any]
Rank = tuple[int, ...]
"""Channels of a group between two layers: one number, or for Tucker-2 one behind each of the first two layers."""

_DAMPING = 1e-6
"""Share of the mean square of what the last layer reads that is added to it: where it reads nothing, weights stay."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One of the layers."""

    tensor: Array
    """float64 (groups, N, C, *kernel), with as many axes as the layer had; those it does not move along have size 1."""
    axes: tuple[int, ...]
    """Axes of the kernel, from 0, along which it has the layer's stride, dilation and padding. Each has one stage."""

    @property
    def groups(self) -> int:
        """Groups of channels that are convolved apart; of a depthwise stage, its channels."""
        return int(self.tensor.shape[0])


@dataclass(frozen=True, eq=False)
class Factors:
    """The layers that take the place of one, in order; no non-linearity is between them.

    A stage has as many groups as the layer, or is depthwise: then all its channels are groups.
    """

    method: str
    rank: Rank
    stages: tuple[Stage, ...]

    @cached_property
    def tensor(self) -> Array:
        """What they compute together: weights of the layer, float64 (groups, N, C, *kernel)."""
        return _composed(self.stages, self._groups)

    @cached_property
    def basis(self) -> Array:
        """What the last stage reads, by what the layer read: float64 (groups, depth, depth of the last stage).

        With M the weights of the last stage, (groups, its depth, N), ``basis @ M`` is the `Form.matrix` of `tensor`.
        """
        last = self.stages[-1]
        head = _composed(self.stages[:-1], self._groups)  # (groups, M, C, *kernel), 1 along the last stage's axes
        groups, middle, inputs = head.shape[:3]
        kernel = tuple(max(sizes) for sizes in zip(head.shape[3:], last.tensor.shape[3:], strict=True))
        size = int(np.prod(last.tensor.shape[3:]))
        found = np.zeros((groups, inputs, *kernel, middle, size))
        for tap in range(size):
            place = np.unravel_index(tap, last.tensor.shape[3:])
            own = tuple(
                slice(None) if size == 1 else slice(at, at + 1)
                for at, size in zip(place, last.tensor.shape[3:], strict=True)
            )
            found[(slice(None), slice(None), *own, slice(None), tap)] = np.moveaxis(head, 1, -1)
        return found.reshape(groups, -1, middle * size)

    @property
    def last(self) -> Array:
        """Weights of the last stage, (groups, its depth, N)."""
        tensor = self.stages[-1].tensor
        flat: Array = tensor.reshape(tensor.shape[0], tensor.shape[1], -1).transpose(0, 2, 1)
        return flat

    def refined(self, form: Form, moments: Array) -> Factors:
        """The same but for the last stage, whose weights bring the output closest to the layer's, in least squares.

        With P = `basis`, G the mean of x x^T over the rows x that the layer reads, (groups, depth, depth), and W the
        layer's weights, ``(P^T G P) M = P^T G W``, slightly damped towards the M that is there.
        """
        read = self.basis.transpose(0, 2, 1) @ moments
        left, right = read @ self.basis, read @ form.matrix
        size = left.shape[-1]
        strength = _DAMPING * np.trace(left, axis1=1, axis2=2) / size
        ridge = np.where(strength > 0, strength, 1.0)[:, None, None] * np.eye(size)
        found = np.linalg.solve(left + ridge, right + ridge @ self.last)
        last = self.stages[-1]
        tensor = np.ascontiguousarray(found.transpose(0, 2, 1)).reshape(last.tensor.shape)
        return replace(self, stages=(*self.stages[:-1], replace(last, tensor=tensor)))

    @property
    def parameters(self) -> int:
        """Weights of all stages."""
        return sum(stage.tensor.size for stage in self.stages)

    @property
    def _groups(self) -> int:
        return min(stage.groups for stage in self.stages)


def relative_error(form: Form, factors: Factors, moments: Array | None) -> float:
    """Share of the energy of what the layer makes that is lost: ``|X (W - W')|^2 / |X W|^2``.

    `moments`: see `Factors.refined`; without them that of the weights, ``|W - W'|^2 / |W|^2``. 0 where there is none.
    """
    wanted = form.matrix
    lost = wanted - _flat(factors.tensor)
    return float(energy(lost, moments) / max(energy(wanted, moments), np.finfo(np.float64).tiny))


def energy(matrix: Array, moments: Array | None) -> float:
    """``|X W|^2`` of weights (groups, depth, N), summed over groups and outputs; ``|W|^2`` without moments."""
    if moments is None:
        return float(np.square(matrix).sum())
    return max(0.0, float(((moments @ matrix) * matrix).sum()))


def _flat(tensor: Array) -> Array:
    flat: Array = tensor.reshape(*tensor.shape[:2], -1).transpose(0, 2, 1)
    return flat


def _composed(stages: Sequence[Stage], groups: int) -> Array:
    """The tensor (groups, N, C, *kernel) of stages one after the other, each moving along other axes."""
    found = stages[0].tensor
    found = found.reshape(groups, -1, *found.shape[2:]) if found.shape[0] == groups else _depthwise(found, groups)
    for stage in stages[1:]:
        own = stage.tensor
        kernel = own.shape[3:]
        if own.shape[0] == groups:
            joined = np.einsum("gnra,grcb->gncab", _flatten(own), _flatten(found), optimize=True)
        else:  # depthwise: (groups * R, 1, 1, *kernel)
            own = own.reshape(groups, -1, 1, *kernel)
            joined = np.einsum("gra,grcb->grcab", own.reshape(groups, own.shape[1], -1), _flatten(found))
        sizes = joined.shape[:3]
        joined = joined.reshape(*sizes, *kernel, *found.shape[3:])
        rank = len(kernel)
        # one of the two sizes of each axis is 1
        order = [axis for pair in zip(range(3, 3 + rank), range(3 + rank, 3 + 2 * rank), strict=True) for axis in pair]
        joined = joined.transpose(0, 1, 2, *order)
        found = joined.reshape(*sizes, *(a * b for a, b in zip(kernel, found.shape[3:], strict=True)))
    return found


def _flatten(tensor: Array) -> Array:
    return tensor.reshape(*tensor.shape[:3], -1)


def _depthwise(tensor: Array, groups: int) -> Array:
    """A depthwise stage at the start, (groups * R, 1, 1, *kernel), as a dense one of `groups` groups."""
    own = tensor.reshape(groups, -1, *tensor.shape[3:])
    found = np.zeros((groups, own.shape[1], own.shape[1], *tensor.shape[3:]))
    index = np.arange(own.shape[1])
    found[:, index, index] = own
    return found
