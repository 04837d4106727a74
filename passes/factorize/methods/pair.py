"""Two layers for one: what the SVD of its weights, written as a matrix, says about all ranks at once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np

from lpcc.passes.factorize.factors import Factors, Rank, Stage, relative_error
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
    products of what the first layer reads at all the places where the second looks.

    Where the second layer looks at one place only, that is the optimum in the layer's output. Else the places are
    correlated as well, by T: the moments are near the Kronecker product of S and T, in which ``A T^1/2 V`` is best with
    V of ``A T^1/2``. The second layer is then brought closest to the layer's output (`Factors.refined`), behind this
    first one and behind that without moments; the better of the two is taken.

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
        if self.moments is None or self._taps == 1:
            return self._cut(self._head, rank)
        return self._refined(rank, self.moments)[1]

    @property
    def is_quick(self) -> bool:
        """See the base class: where the eigenvalues tell."""
        return self.moments is None or self._taps == 1

    def error(self, rank: Rank) -> float:
        """See the base class."""
        self.check(rank)
        if self.moments is None or self.is_quick:
            energies = self._head.energies
            return float(energies[:, rank[0] :].sum() / max(energies.sum(), np.finfo(np.float64).tiny))
        if rank not in self._errors:
            self._errors[rank] = self._refined(rank, self.moments)[0]
        return self._errors[rank]

    def _refined(self, rank: Rank, moments: Array) -> tuple[float, Factors]:
        """What is lost by the better of two refined pairs, and that pair."""
        pairs = [self._cut(head, rank).refined(self.form, moments) for head in (self._head, self._plain)]
        return min(((relative_error(self.form, pair, moments), pair) for pair in pairs), key=itemgetter(0))

    def _cut(self, head: _Head, rank: Rank) -> Factors:
        """The layers of rank K."""
        form = self.form
        first = head.first[:, :, : rank[0]]
        norms = np.sqrt(np.linalg.norm(first, axis=1))[:, None, :]
        norms[norms == 0] = 1.0
        first = first / norms
        last = (head.last[:, :, : rank[0]] * norms).swapaxes(1, 2)
        behind = tuple(axis for axis in range(len(form.kernel)) if axis not in self._ahead)
        first = first.reshape(form.groups, form.inputs, *_sizes(form, self._ahead), rank[0])
        last = last.reshape(form.groups, rank[0], *_sizes(form, behind), form.outputs)
        stages = (
            Stage(np.ascontiguousarray(np.moveaxis(first, -1, 1)), self._ahead),
            Stage(np.ascontiguousarray(np.moveaxis(last, -1, 1)), behind),
        )
        return Factors(self.name, rank, stages)

    @property
    def _taps(self) -> int:
        """Places where the second layer looks."""
        return int(np.prod([size for axis, size in enumerate(self.form.kernel) if axis not in self._ahead]))

    @property
    def _sides(self) -> tuple[int, int]:
        size = int(np.prod(self.form.kernel))
        return self.form.inputs * size // self._taps, self.form.outputs * self._taps

    @property
    def _order(self) -> list[int]:
        """The axes of the kernel, those of the first layer first."""
        return sorted(range(len(self.form.kernel)), key=lambda axis: axis not in self._ahead)

    @cached_property
    def _matrix(self) -> Array:
        ordered = self.form.tensor.transpose(0, 2, *(3 + axis for axis in self._order), 1)
        return ordered.reshape(self.form.groups, *self._sides)

    @cached_property
    def _plain(self) -> _Head:
        """The layers without moments."""
        directions, energies = principal(self._matrix, None)
        return _Head(self._matrix @ directions, directions, energies)

    @cached_property
    def _head(self) -> _Head:
        """The layers, not refined yet."""
        if self.moments is None:
            return self._plain
        form, rank = self.form, len(self.form.kernel)
        order = [0, *(1 + axis for axis in self._order)]
        split = self.moments.reshape(form.groups, *(form.inputs, *form.kernel) * 2)
        split = split.transpose(0, *(1 + axis for axis in order), *(2 + rank + axis for axis in order))
        depth, taps = self._sides[0], self._taps
        split = split.reshape(form.groups, depth, taps, depth, taps)
        metric = np.einsum("gawbw->gab", split) / taps
        root, inverse = _roots(np.einsum("gavaw->gvw", split))
        directions, energies = principal(_times(self._matrix, root), metric)
        last = _times(directions.swapaxes(1, 2), inverse).swapaxes(1, 2)
        return _Head(_times(self._matrix, root) @ directions, last, energies)


@dataclass(frozen=True, eq=False)
class _Head:
    """Weights of two layers of full rank, what matters most first."""

    first: Array
    """(groups, depth, K)."""
    last: Array
    """(groups, taps x N, K)."""
    energies: Array
    """(groups, K): what each of the K channels adds to the output, where the second layer looks at one place."""


def principal(matrix: Array, metric: Array | None) -> tuple[Array, Array]:
    """The directions of the outputs of a matrix A in which most of its energy is, with the energies.

    A is (groups, depth, N), a metric S (groups, depth, depth); found are the eigenvectors V of ``A^T S A``, (groups, N,
    least of depth and N), largest first, and the energies ``v^T A^T S A v``. V is orthonormal and spans all that A
    writes, whatever the conditions of A and S: ``A V V^T = A``. S is damped a little for the order of directions of
    which it says nothing.
    """
    basis = None
    if matrix.shape[1] < matrix.shape[2]:  # A^T = Q R: the smaller R S R^T has the same eigenvalues
        basis, small = np.linalg.qr(matrix.swapaxes(1, 2))
        matrix = small.swapaxes(1, 2)
    plain = matrix.swapaxes(1, 2) @ matrix
    product = damped = plain
    if metric is not None:
        product = matrix.swapaxes(1, 2) @ (metric @ matrix)
        strength = _DAMPING * np.trace(metric, axis1=1, axis2=2) / metric.shape[1]
        damped = product + np.where(strength > 0, strength, 1.0)[:, None, None] * plain
    vectors = np.linalg.eigh(damped)[1][:, :, ::-1]
    energies = np.maximum(0.0, np.einsum("gij,gij->gj", vectors, product @ vectors))
    return vectors if basis is None else basis @ vectors, energies


def _roots(products: Array) -> tuple[Array, Array]:
    """Square roots of positive matrices (groups, w, w) of mean diagonal 1, slightly damped, and their inverses."""
    size = products.shape[1]
    means = np.trace(products, axis1=1, axis2=2)[:, None, None] / size
    scaled = np.divide(products, means, out=np.broadcast_to(np.eye(size), products.shape).copy(), where=means > 0)
    values, vectors = np.linalg.eigh(scaled)
    roots = np.sqrt(np.maximum(values, _DAMPING))[:, None, :]
    return vectors * roots @ vectors.swapaxes(1, 2), vectors / roots @ vectors.swapaxes(1, 2)


def _times(matrix: Array, taps: Array) -> Array:
    """``A (T x I)``: a matrix (groups, rows, w N) whose columns are mixed among taps by (groups, w, w)."""
    split = matrix.reshape(*matrix.shape[:2], taps.shape[1], -1)
    mixed: Array = np.einsum("gavn,gvw->gawn", split, taps, optimize=True)
    return mixed.reshape(matrix.shape)


def _sizes(form: Form, axes: tuple[int, ...]) -> list[int]:
    """Sizes of the kernel along some axes, 1 along the others."""
    return [size if axis in axes else 1 for axis, size in enumerate(form.kernel)]
