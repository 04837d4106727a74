"""Least squares of relative errors with coefficients of at least 0: costs are never negative."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lpcc.errors import UsageError


def fit_relative(
    features: NDArray[np.float64],
    measured: Sequence[float] | NDArray[np.float64],
    *,
    prior: NDArray[np.float64] | None = None,
    shrinkage: float = 0.0,
    weights: Sequence[float] | NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Coefficients c >= 0 that minimise the mean of w ((features @ c) / measured - 1)^2.

    `features` is [samples, terms]. With `prior` and `shrinkage` s the term s (c / prior - 1)^2 is added for each
    coefficient whose prior is above 0: few samples then move the coefficients little.

    Raises UsageError where a measurement is not above 0.
    """
    from scipy.optimize import nnls

    target = np.asarray(measured, dtype=np.float64)
    if target.size == 0 or not (np.isfinite(target).all() and (target > 0).all()):
        raise UsageError("fitting needs measurements above 0")
    root = np.sqrt(np.ones_like(target) if weights is None else np.asarray(weights, dtype=np.float64))
    rows = features / target[:, None] * root[:, None] / np.sqrt(target.size)
    values = root / np.sqrt(target.size)
    if prior is not None and shrinkage > 0:
        known = prior > 0
        rows = np.vstack([rows, np.sqrt(shrinkage) * np.diag(1 / np.where(known, prior, np.inf))[known]])
        values = np.concatenate([values, np.full(int(known.sum()), np.sqrt(shrinkage))])
    size = np.linalg.norm(rows, axis=0)
    size[size == 0] = 1.0  # terms of very different size: solve for their contributions
    solution, _ = nnls(rows / size, values, maxiter=100 * rows.shape[1])
    found: NDArray[np.float64] = solution / size
    return found
