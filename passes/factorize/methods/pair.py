"""Two layers for one: what the SVD of its weights, written as a matrix, says about all ranks at once."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from lpcc.passes.factorize.factors import Factors, Rank, Stage
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.base import Decomposition

Array = np.ndarray[Any, Any]

_DAMPING = 1e-6
"""Share of the mean of a metric's diagonal that is added to it: what no row shows still counts a little."""


class Pair(Decomposition):
    """Weights as a matrix A, (inputs x axes of the first layer) by (axes of the second x outputs), of low rank.

    With V the first K eigenvectors of ``A^T S A``, ``A V V^T`` is the matrix of rank K closest to A in the metric S of
    its rows (Eckart and Young 1936; with S, Zhang et al. 2015, arXiv 1505.06798): the first layer has the weights
    ``A V``, the second ``V^T``, scaled to equal norms. S is the identity without moments. Else it is the mean of the
    products of what the first layer reads at all the places where the second looks. Where the second looks at one
    place only, the result is the optimum in the layer's output; else it is the weights' side of it, and the second
    layer is refined (`Factors.refined`).

    All groups have the same rank.
    """

    def __init__(self, form: Form, moments: Array | None = None) -> None:
        super().__init__(form, moments)
        self._ahead = self.ahead(form)
        rows, columns = self._sides
        if rows + columns >= rows * columns:
            raise Declined(f"at no rank has {self.name} fewer weights than it")

    @staticmethod
    @abstractmethod
    def ahead(form: Form) -> tuple[int, ...]:
        """Axes of the kernel along which the first layer moves, ascending; the second moves along the others."""

    @property
    def full(self) -> Rank:
        """See the base class: the smaller side of the matrix."""
        return (min(self._sides),)

    def factors(self, rank: Rank) -> Factors:
        """See the base class."""
        self.check(rank)
        directions = self._principal[0][:, :, : rank[0]]
        first = self._matrix @ directions
        norms = np.sqrt(np.linalg.norm(first, axis=1))[:, None, :]
        norms[norms == 0] = 1.0
        first, last = first / norms, (directions * norms).transpose(0, 2, 1)
        form, axes = self.form, range(len(self.form.kernel))
        behind = tuple(axis for axis in axes if axis not in self._ahead)
        first = first.reshape(form.groups, form.inputs, *_sizes(form, self._ahead), rank[0])
        last = last.reshape(form.groups, rank[0], *_sizes(form, behind), form.outputs)
        stages = (
            Stage(np.ascontiguousarray(np.moveaxis(first, -1, 1)), self._ahead),
            Stage(np.ascontiguousarray(np.moveaxis(last, -1, 1)), behind),
        )
        found = Factors(self.name, rank, stages)
        return found if self.moments is None or self._is_optimal else found.refined(form, self.moments)

    def error(self, rank: Rank) -> float:
        """See the base class: from the eigenvalues, where they tell."""
        if self.moments is not None and not self._is_optimal:
            return super().error(rank)
        self.check(rank)
        spectrum = self._principal[1]
        return float(spectrum[:, rank[0] :].sum() / max(spectrum.sum(), np.finfo(np.float64).tiny))

    @property
    def _is_optimal(self) -> bool:
        """Whether the metric of the matrix is that of the layer's output: the second layer has one pixel."""
        return all(size == 1 for axis, size in enumerate(self.form.kernel) if axis not in self._ahead)

    @property
    def _sides(self) -> tuple[int, int]:
        own = int(np.prod([self.form.kernel[axis] for axis in self._ahead]))
        return self.form.inputs * own, self.form.outputs * int(np.prod(self.form.kernel)) // own

    @property
    def _order(self) -> list[int]:
        """The axes of the kernel, those of the first layer first."""
        return sorted(range(len(self.form.kernel)), key=lambda axis: axis not in self._ahead)

    @cached_property
    def _matrix(self) -> Array:
        tensor = self.form.tensor
        ordered = tensor.transpose(0, 2, *(3 + axis for axis in self._order), 1)
        return ordered.reshape(self.form.groups, *self._sides)

    @cached_property
    def _principal(self) -> tuple[Array, Array]:
        return principal(self._matrix, None if self.moments is None else self._metric(self.moments))

    def _metric(self, moments: Array) -> Array:
        """The mean over the places where the second layer looks of the products of what the first one reads there."""
        form, rank = self.form, len(self.form.kernel)
        depth = self._sides[0]
        one = (form.inputs, *form.kernel)
        order = [0, *(1 + axis for axis in self._order)]
        split = moments.reshape(form.groups, *one, *one)
        split = split.transpose(0, *(1 + axis for axis in order), *(2 + rank + axis for axis in order))
        split = split.reshape(form.groups, depth, -1, depth, form.inputs * int(np.prod(form.kernel)) // depth)
        metric: Array = np.einsum("gawbw->gab", split) / split.shape[2]
        return metric


def principal(matrix: Array, metric: Array | None) -> tuple[Array, Array]:
    """The directions of the outputs of a matrix A in which most of its energy is, with the energies.

    A is (groups, depth, N), a metric S (groups, depth, depth); found are the eigenvectors V of ``A^T S A``, (groups, N,
    least of depth and N), largest first, and the energies ``v^T A^T S A v``. V is orthonormal and spans all that A
    writes, whatever the conditions of A and S: ``A V V^T = A``. S is damped a little for the order of directions of
    which it says nothing.
    """
    basis = None
    if matrix.shape[1] < matrix.shape[2]:  # A^T = Q R: the smaller problem R S R^T has the same eigenvalues
        basis, small = np.linalg.qr(matrix.transpose(0, 2, 1))
        matrix = small.transpose(0, 2, 1)
    plain = matrix.transpose(0, 2, 1) @ matrix
    product = plain if metric is None else matrix.transpose(0, 2, 1) @ (metric @ matrix)
    damped = product
    if metric is not None:
        strength = _DAMPING * np.trace(metric, axis1=1, axis2=2) / metric.shape[1]
        damped = product + np.where(strength > 0, strength, 1.0)[:, None, None] * plain
    vectors = np.linalg.eigh(damped)[1][:, :, ::-1]
    energies = np.maximum(0.0, np.einsum("gij,gij->gj", vectors, product @ vectors))
    return vectors if basis is None else basis @ vectors, energies


def _sizes(form: Form, axes: tuple[int, ...]) -> list[int]:
    """Sizes of the kernel along some axes, 1 along the others."""
    return [size if axis in axes else 1 for axis, size in enumerate(form.kernel)]
