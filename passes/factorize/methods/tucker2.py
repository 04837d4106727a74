"""The method `tucker2`: fewer channels before a layer and behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np

from lpcc.passes.factorize.factors import Factors, Rank, Stage
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.base import Decomposition
from lpcc.passes.factorize.methods.pair import principal
from lpcc.passes.factorize.methods.svd import Svd

Array = np.ndarray[Any, Any]

_SWEEPS = 100
_LEAST_SWEEPS = 3
_GAIN = 1e-5
"""By how much a sweep must lower the relative error of the weights, in its norm, for another one to follow."""
_FITS = 2
"""How often, with moments, the first layer is fitted to what the last one keeps."""
_DAMPING = 1e-6
"""As that of `Factors.refined`."""


class Tucker2(Decomposition):
    """``W[n, c, t] = sum_ab V[n, b] S[b, a, t] U[c, a]``: one pixel from C to R1, the kernel to R2, one pixel to N.

    The rank is (R1, R2). U and V are found by higher-order orthogonal iteration from the truncated HOSVD (De Lathauwer
    et al. 2000; for layers Kim et al. 2016, arXiv 1511.06530): U spans most of W with V fixed, and the other way round.

    With moments G, for a given U the other two are the optimum in the layer's output, a reduced-rank regression on what
    U lets through: with ``P = U (x) I``, ``B = (P^T G P)^-1 P^T G W`` and V the first R2 eigenvectors of
    ``B^T P^T G P B``, S is ``B V``. U is that of the iteration without moments or one that is best in the products of
    input channels, mean over the places of the window, whichever loses less.

    A kernel of one pixel, Gemm and MatMul have the SVD, with one rank (`Svd`): a layer between two of one pixel would
    be one too. Of two ranks, one that is larger than the other allows (R1 > taps x R2, or R2 > taps x R1) is lowered to
    that, which loses nothing: `Factors.rank` tells. Grouped layers stay grouped. Declined where the ranks (1, 1) have
    no fewer weights, as in depthwise layers.
    """

    name: ClassVar[str] = "tucker2"

    def __init__(self, form: Form, moments: Array | None = None) -> None:
        super().__init__(form, moments)
        self._flat = Svd(form, moments) if form.is_pointwise else None
        self._taps = int(np.prod(form.kernel))
        if self._flat is None and form.inputs + self._taps + form.outputs >= form.inputs * self._taps * form.outputs:
            raise Declined(f"at no rank has {self.name} fewer weights than it")

    @property
    def full(self) -> Rank:
        """See the base class: (input side, output side), or the one rank of the SVD."""
        if self._flat is not None:
            return self._flat.full
        inputs, outputs = self.form.inputs, self.form.outputs
        return min(inputs, outputs * self._taps), min(outputs, inputs * self._taps)

    def factors(self, rank: Rank) -> Factors:
        """See the base class."""
        self.check(rank)
        if self._flat is not None:
            return replace(self._flat.factors(rank), method=self.name)
        before, behind = self._iterated(*rank)
        rank = min(rank[0], rank[1] * self._taps), min(rank[1], rank[0] * self._taps)
        before, behind = before[:, :, : rank[0]], behind[:, :, : rank[1]]
        if self.moments is None:
            core = _before(_behind(self._tensor, behind), before)
            return self._made(before, core, behind)
        return min(self._fitted(before, rank, self.moments), key=itemgetter(0))[1]

    def error(self, rank: Rank) -> float:
        """See the base class."""
        return super().error(rank) if self._flat is None else self._flat.error(rank)

    @cached_property
    def _tensor(self) -> Array:
        """The weights as (groups, N, C, taps)."""
        form = self.form
        return form.tensor.reshape(form.groups, form.outputs, form.inputs, self._taps)

    @cached_property
    def _start(self) -> Array:
        """All directions of inputs (groups, C, C), those of most energy first."""
        return _leading(self._by_inputs(self._tensor), self.form.inputs)

    def _by_inputs(self, tensor: Array) -> Array:
        return tensor.swapaxes(1, 2).reshape(len(tensor), self.form.inputs, -1)

    def _iterated(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        """Directions of inputs (groups, C, R1) and of outputs (groups, N, R2) by orthogonal iteration."""
        free = inputs >= outputs * self._taps  # then nothing bounds the inputs but the outputs, whose HOSVD is the best
        before = behind = self._start if free else self._start[:, :, :inputs]
        total, lost = float(np.square(self._tensor).sum()), np.inf
        for sweep in range(_SWEEPS):
            behind = _leading(_before(self._tensor, before).reshape(len(before), self.form.outputs, -1), outputs)
            through = self._by_inputs(_behind(self._tensor, behind))
            before = _leading(through, inputs)
            now = np.sqrt(max(0.0, total - float(np.square(before.swapaxes(1, 2) @ through).sum())))
            if sweep + 1 >= _LEAST_SWEEPS and lost - now <= _GAIN * np.sqrt(total):
                break
            lost = now
        return before, behind

    def _fitted(self, before: Array, rank: Rank, moments: Array) -> Iterator[tuple[float, Factors]]:
        """The best that can stand behind the directions `before`, then behind others, each with what it loses."""
        form = self.form
        split = moments.reshape(form.groups, form.inputs, self._taps, form.inputs, self._taps)
        channels = np.einsum("gasbs->gab", split) / self._taps
        lost, core, behind = self._regressed(before, rank, moments)
        yield lost, self._made(before, core, behind)
        seen = self._tensor
        for _ in range(_FITS):
            matrix = self._by_inputs(seen)
            directions = principal(matrix, channels)[0][:, :, : rank[0]]
            before = np.linalg.qr(matrix @ directions)[0]
            lost, core, behind = self._regressed(before, rank, moments)
            yield lost, self._made(before, core, behind)
            seen = _behind(self._tensor, behind)

    def _regressed(self, before: Array, rank: Rank, moments: Array) -> tuple[float, Array, Array]:
        """What is best for the layer's output behind orthonormal directions (groups, C, R1).

        Returned are the energy that is lost, up to a constant, the core and the directions of outputs.
        """
        form, taps, inputs = self.form, self._taps, rank[0]
        read = before.swapaxes(1, 2) @ moments.reshape(form.groups, form.inputs, -1)
        read = read.reshape(form.groups, inputs * taps, form.inputs, taps)  # P^T G
        right = read.reshape(form.groups, inputs * taps, -1) @ form.matrix
        left = (read.swapaxes(2, 3) @ before[:, None]).swapaxes(2, 3).reshape(form.groups, inputs * taps, -1)
        plain = _before(self._tensor, before).reshape(form.groups, form.outputs, -1).swapaxes(1, 2)  # P^T W
        strength = _DAMPING * np.trace(left, axis1=1, axis2=2) / left.shape[1]
        ridge = np.where(strength > 0, strength, 1.0)[:, None, None] * np.eye(left.shape[1])
        best = np.linalg.solve(left + ridge, right + ridge @ plain)
        directions, energies = principal(best, left)
        behind = directions[:, :, : rank[1]]
        core = best @ behind
        lost = float(energies[:, : rank[1]].sum() - 2 * (core * (right @ behind)).sum())
        return lost, core.swapaxes(1, 2).reshape(form.groups, -1, inputs, taps), behind

    def _made(self, before: Array, core: Array, behind: Array) -> Factors:
        """The layers of U (groups, C, R1), the core (groups, R2, R1, taps) and V (groups, N, R2)."""
        form = self.form
        pixel = (1,) * len(form.kernel)
        stages = (
            Stage(np.ascontiguousarray(before.swapaxes(1, 2)).reshape(form.groups, -1, form.inputs, *pixel), ()),
            Stage(np.ascontiguousarray(core).reshape(*core.shape[:3], *form.kernel), tuple(range(len(form.kernel)))),
            Stage(np.ascontiguousarray(behind).reshape(*behind.shape, *pixel), ()),
        )
        return Factors(self.name, (before.shape[2], behind.shape[2]), stages)


def _leading(matrix: Array, count: int) -> Array:
    """The first left singular vectors of matrices (groups, rows, columns), (groups, rows, count)."""
    found: Array = np.linalg.eigh(matrix @ matrix.swapaxes(1, 2))[1][:, :, ::-1][:, :, :count]
    return found


def _before(tensor: Array, directions: Array) -> Array:
    """(groups, N, C, taps) with its inputs by directions (groups, C, R): (groups, N, R, taps)."""
    found: Array = directions.swapaxes(1, 2)[:, None] @ tensor
    return found


def _behind(tensor: Array, directions: Array) -> Array:
    """(groups, N, C, taps) with its outputs by directions (groups, N, R): (groups, R, C, taps)."""
    flat = directions.swapaxes(1, 2) @ tensor.reshape(*tensor.shape[:2], -1)
    return flat.reshape(len(flat), -1, *tensor.shape[2:])
