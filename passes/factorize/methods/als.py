"""A tensor as a sum of rank-one terms, by alternating least squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_PROXIMAL = 1e-12
"""How strongly, beside its normal equations of unit diagonal, a factor stays what it was: these may be singular."""


@dataclass(frozen=True, eq=False)
class Terms:
    """``sum over r of a_r o b_r o c_r ...``: for each mode of a tensor its factor, float64 (size of the mode, R)."""

    factors: tuple[Array, ...]

    @property
    def rank(self) -> int:
        """How many terms."""
        return int(self.factors[0].shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the modes."""
        return tuple(len(factor) for factor in self.factors)

    @cached_property
    def tensor(self) -> Array:
        """The sum."""
        flat: Array = self.factors[0] @ khatri_rao(self.factors[1:]).T
        return flat.reshape(self.shape)

    @cached_property
    def norms(self) -> Array:
        """Norm of each term, (R,)."""
        found: Array = np.prod([np.linalg.norm(factor, axis=0) for factor in self.factors], axis=0)
        return found

    def first(self, rank: int) -> Terms:
        """The first of them, at most `rank`."""
        return Terms(tuple(factor[:, :rank] for factor in self.factors))

    def balanced(self) -> Terms:
        """The same terms, the norm of each spread evenly over its factors."""
        share = self.norms ** (1 / len(self.factors))
        lengths = [np.linalg.norm(factor, axis=0) for factor in self.factors]
        return Terms(
            tuple(
                factor * np.divide(share, length, out=np.zeros_like(share), where=length > 0)
                for factor, length in zip(self.factors, lengths, strict=True)
            )
        )

    def times(self, matrices: Sequence[Array | None]) -> Terms:
        """The sum with each mode multiplied by its matrix (None: the identity) from the left."""
        return Terms(
            tuple(
                factor if matrix is None else matrix @ factor
                for factor, matrix in zip(self.factors, matrices, strict=True)
            )
        )


def khatri_rao(factors: Sequence[Array]) -> Array:
    """The products of the factors' columns, (product of their sizes, R), the last mode fastest."""
    found = factors[0]
    for factor in factors[1:]:
        found = (found[:, None] * factor).reshape(-1, factor.shape[1])
    return found


class Sweeps:
    """A tensor of three modes or more, ready for the products that alternating over its modes needs.

    Of an optimum over the factor X of one mode, the others fixed, all that matters is M, the tensor's unfolding times
    the Khatri-Rao product of the others, and G, the product of their Gram matrices, elementwise:
    ``|T - T'|^2 = |T|^2 - 2 <M, X> + <X^T X, G>``.

    The tensor itself is read twice a sweep, for the first mode and for all others together, in matrix products of R
    columns. The Khatri-Rao product of the two large modes, half a gigabyte at 512 x 512 and R = 256, is never formed.
    """

    def __init__(self, tensor: Array) -> None:
        self.energy = float(np.square(tensor).sum())
        self._shape = tensor.shape
        self._first = np.ascontiguousarray(tensor.reshape(len(tensor), -1).T)  # (C K, N)
        moved = np.moveaxis(tensor.reshape(*tensor.shape[:2], -1), 1, 2)
        self._second = np.ascontiguousarray(moved).reshape(-1, tensor.shape[1])  # (N K, C)

    def over(self, factors: list[Array]) -> Iterator[tuple[int, Array, Array]]:
        """For each mode in order (mode, M, G). Who iterates replaces the mode's factor in the list before the next."""
        rank = factors[0].shape[1]
        grams = [factor.T @ factor for factor in factors]

        def gram(mode: int) -> Array:
            found: Array = np.prod([own for at, own in enumerate(grams) if at != mode], axis=0)
            return found

        behind = khatri_rao(factors[2:])
        seen = (self._second @ factors[1]).reshape(self._shape[0], -1, rank)
        yield 0, np.einsum("nkr,kr->nr", seen, behind), gram(0)
        grams[0] = factors[0].T @ factors[0]
        seen = (self._first @ factors[0]).reshape(self._shape[1], -1, rank)
        yield 1, np.einsum("ckr,kr->cr", seen, behind), gram(1)
        grams[1] = factors[1].T @ factors[1]
        kernel = np.einsum("ckr,cr->kr", seen, factors[1]).reshape(*self._shape[2:], rank)
        axes = "abdefgh"[: kernel.ndim - 1]
        for at, axis in enumerate(axes):
            others = [f"{other}r" for other in axes if other != axis]
            operands = [factors[2 + place] for place in range(len(axes)) if place != at]
            yield 2 + at, np.einsum(",".join([f"{axes}r", *others]) + f"->{axis}r", kernel, *operands), gram(2 + at)
            grams[2 + at] = factors[2 + at].T @ factors[2 + at]

    def residual(self, terms: Terms) -> float:
        """``|T - T'|^2`` to full precision, by forming T'."""
        return float(np.square(self._first - khatri_rao(terms.factors[1:]) @ terms.factors[0].T).sum())

    def lost(self, factor: Array, product: Array, gram: Array) -> float:
        """``|T - T'|^2`` with X = `factor` of a mode whose M and G are given, to 1e-16 of ``|T|^2`` at best."""
        return max(0.0, self.energy - 2 * float((product * factor).sum()) + float(((factor.T @ factor) * gram).sum()))


def alternate(
    sweeps: Sweeps, start: Terms, most: int, tolerance: float = 1e-8, pace: float = 0.5
) -> tuple[Terms, float]:
    """Alternating least squares from a start: the terms, and the share of the tensor's energy that is lost.

    Each mode in turn gets ``X = M G^-1`` (`Sweeps`). Between sweeps all factors are carried on in the direction in
    which the last sweep moved them, by the share `pace` of it at first; where that raised the error it is taken back,
    and the pace halved (Ang et al., arXiv 2001.04321). On convolutions, 100 sweeps reach what takes 200 to 300 at a
    pace of 0.

    Ends after `most` sweeps, or when one lowers the error, the square root of the share, by less than `tolerance`.
    """
    kept = factors = list(start.balanced().factors)
    before = np.inf
    for _ in range(most):
        moved = list(factors)
        for mode, product, gram in sweeps.over(moved):
            moved[mode] = _solved(product, gram, moved[mode])
            last = moved[mode], product, gram
        error = (sweeps.lost(*last) / sweeps.energy) ** 0.5
        if error <= before:
            moved = list(Terms(tuple(moved)).balanced().factors)
            factors = [new + pace * (new - old) for new, old in zip(moved, kept, strict=True)]
            gained, kept, before, pace = before - error, moved, error, min(1.0, 1.05 * pace)
            if gained < tolerance:
                break
        elif factors is kept:
            break
        else:
            factors, pace = kept, pace / 2
    return Terms(tuple(kept)), before**2


def _solved(product: Array, gram: Array, old: Array) -> Array:
    """``M G^-1``, with a proximal term towards the factor that is there, so that the error does not rise."""
    diagonal = np.sqrt(np.diag(gram))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    matrix = gram / np.outer(scale, scale)
    matrix[np.diag_indices_from(matrix)] += _PROXIMAL
    right = (product / scale + _PROXIMAL * old * scale).T
    import scipy.linalg

    try:
        found = scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix, check_finite=False), right, check_finite=False)
    except scipy.linalg.LinAlgError:  # singular beyond the proximal term: a factor of exactly parallel columns
        found = scipy.linalg.lstsq(matrix, right)[0]
    solved: Array = found.T / scale
    return solved
