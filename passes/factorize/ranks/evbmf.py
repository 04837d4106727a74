"""Ranks by empirical variational Bayes: how much of a matrix is no noise, with nothing to tune.

V (L, M), L <= M, is taken as a product of two matrices with Gaussian priors, whose variances are estimated too, plus
noise of variance s. The solution that is best of all is known in closed form (Nakajima, Sugiyama, Babacan, Tomioka,
Global analytic solution of fully-observed variational Bayesian matrix factorization, JMLR 14, 2013; the threshold as in
Nakajima, Tomioka, Sugiyama, Babacan, Condition for perfect dimensionality recovery, JMLR 16, 2015): with a = L / M, the
components that are kept have singular values

    g > sqrt(s M (1 + t) (1 + a / t)),      t > 0 solves  f(t) + f(t / a) = 0,  f(z) = log(z + 1) / z - 1/2

and the noise is estimated as the s that is the least of  sum over h of psi(g_h^2 / (M s)),  where

    psi(x) = x - log x                                                  for x below (1 + t) (1 + a / t)
           = x - log x + log(u + 1) + a log(u / a + 1) - u              above it, with
    u(x)   = (x - 1 - a + sqrt((x - 1 - a)^2 - 4 a)) / 2

For ranks of convolutions: Kim et al. (arXiv 1511.06530), who take those of both unfoldings for Tucker-2.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from lpcc.passes.factorize.factors import Rank
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.ranks.skeleton import is_cpd, unfoldings

Array = np.ndarray[Any, Any]

_COARSE: Final = 64
"""Noise variances that are looked at before the best is refined: the function may have several minima."""


def evbmf_rank(matrix: Array) -> int:
    """How many components of a matrix (any, any) are no noise; 0 where it is nothing else.

    A matrix whose noise is far below its rounding errors keeps all that is above these.
    """
    rows, columns = sorted(matrix.shape)
    gram = matrix @ matrix.T if matrix.shape[0] == rows else matrix.T @ matrix
    squares = np.maximum(np.linalg.eigvalsh(gram.astype(np.float64)), 0.0)[::-1]
    floor = columns * np.finfo(np.float64).eps * float(squares.max(initial=0.0))
    if not floor > 0:
        return 0
    squares = np.maximum(squares, floor)
    share = rows / columns
    threshold = _threshold(share)
    noise = _noise(squares / columns, share, threshold)
    return int(np.count_nonzero(squares > max(columns * noise * threshold, floor)))


def ranks_by_evbmf(form: Form, method: str) -> Rank:
    """Ranks of a layer by a method: the most that one of its groups needs.

    For svd and bmd, those of the matrix that is cut; for tucker2, of the unfoldings by input and by output channels.
    cpd has no matrix of its own: as in the literature on Tucker-2 followed by CPD, the larger of these two is taken,
    the least number of terms that any CPD with such unfoldings has.

    Raises:
        Declined: the weights are nothing but noise to the model.
    """
    found = tuple(max(evbmf_rank(group) for group in each) for each in unfoldings(form, method))
    if min(found) == 0:
        raise Declined("EVBMF finds nothing but noise in its weights")
    return (max(found),) if is_cpd(form, method) else found


def _threshold(share: float) -> float:
    """(1 + t) (1 + a / t): how many times the noise the square of a singular value must be."""
    from scipy.optimize import brentq

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    guess = 2.5129 * math.sqrt(share)  # close for every share, exact for 1
    root = float(brentq(lambda t: phi(t) + phi(t / share), guess / 10, guess * 10))
    return (1 + root) * (1 + share / root)


def _noise(squares: Array, share: float, threshold: float) -> float:
    """Variance of the noise, from the squares of all singular values by M, descending."""
    from scipy.optimize import minimize_scalar

    def cost(logarithm: float) -> float:
        x = squares / math.exp(logarithm)
        above = x[x > threshold] - 1 - share
        u = (above + np.sqrt(np.maximum(above**2 - 4 * share, 0.0))) / 2
        kept = np.log1p(u) + share * np.log1p(u / share) - u
        return float((x - np.log(x)).sum() + kept.sum())

    rows = len(squares)
    most = min(math.ceil(rows / (1 + share)) - 1, rows - 1)  # of components that can be told from noise
    low = max(float(squares[most]) / threshold, float(squares[most:].mean()))
    high = float(squares.mean())
    start, end = math.log(min(low, high)), math.log(high)
    if end - start < 1e-12:
        return high
    grid = np.linspace(start, end, _COARSE)
    best = int(np.argmin([cost(each) for each in grid]))
    bounds = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _COARSE - 1)]))
    return math.exp(float(minimize_scalar(cost, bounds=bounds, method="bounded").x))
