"""Terms that cancel each other, made smaller without a larger error.

A sum of R rank-one terms closest to a tensor need not exist: the error may fall for ever while terms grow that cancel
each other (de Silva and Lim, arXiv math/0607647). Such weights are of no use: float16 and int8, and in the end float32,
lose in the large terms what their difference is made of.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lpcc.passes.factorize.methods.als import Sweeps, Terms

Array = np.ndarray[Any, Any]

DEGENERATE: Final = 10.0
"""Above this `cancellation`, terms count as degenerate.

Of R terms at right angles it is at most 1. What is lost by cancelling is what is lost by rounding, times this: at 10,
one of the three decimal digits of a float16, and of int8 (two) as much as can be lost.
"""
_STEPS = 32
"""Halvings of the interval that the logarithm of a ridge lies in."""
_ROUNDING = 1e-9
"""Share of a bound by which it may be missed."""


def cancellation(terms: Terms, norm: float) -> float:
    """``sum of |term| / (sqrt(R) norm)``, with `norm` that of the tensor; 0 where there are no terms but zeros."""
    largest = float(terms.norms.sum())
    return largest / (terms.rank**0.5 * norm) if norm > 0 else (np.inf if largest > 0 else 0.0)


def corrected(
    sweeps: Sweeps, terms: Terms, bound: float, enough: float = 0.0, most: int = 30, tolerance: float = 3e-3
) -> Terms:
    """Error-preserving correction: the least ``sum of |term|^2`` with ``|T - T'|^2 <= bound``, by alternating.

    With the other factors' columns scaled to length 1, a mode's factor X solves ``min |X|^2`` under that bound: a ridge
    regression ``X = M (G + s I)^-1`` (M and G as in `Sweeps`). Through G = Q L Q^T its error is a function of s that
    rises, whose largest allowed s is found by bisection. Phan et al., arXiv 2008.05441. A mode where not even s = 0
    keeps the bound within rounding is left as it is. Ends after `most` sweeps, when the `cancellation` is `enough`, or
    when a sweep takes less than the share `tolerance` off the sum.

    Where rounding leaves no way to keep the bound, the terms are given back as they were.
    """
    lengths = terms.norms
    factors = [_unit(factor)[0] for factor in terms.factors]
    before = np.inf
    for _ in range(most):
        for mode, product, gram in sweeps.over(factors):
            factors[mode], lengths = _unit(_ridge(product, gram, factors[mode] * lengths, sweeps.energy, bound))
        total = float(np.square(lengths).sum())
        reached = float(lengths.sum()) <= enough * (terms.rank * sweeps.energy) ** 0.5
        if reached or not total < before * (1 - tolerance):
            break
        before = total
    found = Terms((factors[0] * lengths, *factors[1:])).balanced()
    return found if sweeps.residual(found) <= bound * (1 + _ROUNDING) else terms


def _ridge(product: Array, gram: Array, old: Array, energy: float, bound: float) -> Array:
    """The X of least norm whose error ``energy - 2 <M, X> + <X^T X, G>`` is at most the bound; `old` if there is none.

    In the basis Q, with m the squared lengths of the columns of M Q, the error is
    ``energy - sum of m (L + 2 s) / (L + s)^2``.
    """
    spectrum, basis = np.linalg.eigh(gram)
    spectrum = np.maximum(spectrum, 0.0)
    turned = product @ basis
    weight = np.square(turned).sum(axis=0)
    if not spectrum[-1] > 0:
        return old

    def lost(ridge: float) -> float:
        return energy - float((weight * (spectrum + 2 * ridge) / (spectrum + ridge) ** 2).sum())

    low, high = np.log(spectrum[-1] * 1e-15), np.log(spectrum[-1] * 1e6)
    if lost(np.exp(low)) > bound:
        return old
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(np.exp(middle)) <= bound else (low, middle)
    found: Array = (turned / (spectrum + np.exp(low))) @ basis.T
    return found


def _unit(factor: Array) -> tuple[Array, Array]:
    """A factor with columns of length 1 (or zeros), and their lengths."""
    lengths = np.linalg.norm(factor, axis=0)
    return np.divide(factor, lengths, out=np.zeros_like(factor), where=lengths > 0), lengths
