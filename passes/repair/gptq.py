"""Integers for a layer from sums of products of what it reads and should write: no rows, no iterations over images.

With H the covariance of what the layer reads in the quantised network and C its covariance with what the layer should
write, the squared error of weights W is ``tr(W^T H W) - 2 tr(W^T C)`` plus what W does not change. The bias takes up
the means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpcc.passes.repair.layers import Rounding, Site

Array = np.ndarray[Any, Any]

_BLOCK = 64
"""Inputs whose effect on the others is added up before it is carried over."""
_SHARES = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 1.05, 1.1])


def fitted(site: Site, gram: Array, cross: Array, ridge: float) -> tuple[Array, Array]:
    """The weights of least error, not rounded, and the covariance that they are measured with.

    ``(H + r)^-1 (C + r W)`` for the float weights W and r = `ridge` times the mean of the diagonal of H: where the
    images say little, the weights stay what they were.
    """
    depth = gram.shape[1]
    strength = ridge * np.trace(gram, axis1=1, axis2=2) / depth
    damped = gram + np.where(strength > 0, strength, 1.0)[:, None, None] * np.eye(depth)
    extra = (damped - gram) @ site.float_weights
    return np.linalg.solve(damped, cross + extra), damped


def nearest(site: Site, weights: Array, scales: Array) -> Array:
    """The closest integers, (groups, depth, outputs)."""
    integers: Array = np.clip(np.rint(weights / scales), site.low, site.high)
    return integers


def compensated(site: Site, weights: Array, scales: Array, gram: Array) -> Array:
    """Integers chosen input by input, each error made good by the inputs that are still free.

    Rounding input k of an output by e changes its error least if the free inputs move by ``-e U[k, k:] / U[k, k]``,
    with U the upper Cholesky factor of the inverse of `gram`, which is positive definite. The inputs that weigh most
    come first. Frantar, Singh, Alistarh, Optimal brain compression (2022) and, with the factor, in blocks and in the
    same order for all outputs, Frantar et al., GPTQ (2022).
    """
    order = np.argsort(-np.einsum("gkk->gk", gram), axis=1, kind="stable")
    sorted_gram = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], axis=1), order[:, None, :], axis=2)
    upper = np.linalg.cholesky(np.linalg.inv(sorted_gram)).transpose(0, 2, 1)
    left = np.take_along_axis(weights, order[:, :, None], axis=1)
    integers = np.zeros_like(left)
    depth = left.shape[1]
    for start in range(0, depth, _BLOCK):
        stop = min(start + _BLOCK, depth)
        errors = np.zeros_like(left[:, start:stop])
        for k in range(start, stop):
            integers[:, k] = np.clip(np.rint(left[:, k] / scales[:, 0]), site.low[:, 0], site.high[:, 0])
            errors[:, k - start] = (left[:, k] - integers[:, k] * scales[:, 0]) / upper[:, k, k, None]
            left[:, k + 1 : stop] -= upper[:, k, k + 1 : stop, None] * errors[:, k - start, None]
        left[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    result = np.empty_like(integers)
    np.put_along_axis(result, order[:, :, None], integers, axis=1)
    return result


def polished(site: Site, integers: Array, weights: Array, scales: Array, gram: Array) -> Array:
    """Integers of no greater error than the given ones: one input after the other gets the best for all others.

    One round of cyclic descent on ``tr((W - Q)^T H (W - Q))``, as in Behdin et al., QuantEase (2023); more rounds gain
    next to nothing.
    """
    diagonal = np.einsum("gkk->gk", gram)
    integers = integers.copy()
    pull = gram @ (weights - integers * scales)
    depth = integers.shape[1]
    for start in range(0, depth, _BLOCK):
        stop = min(start + _BLOCK, depth)
        here = pull[:, start:stop].copy()
        block = gram[:, start:stop, start:stop]
        steps = np.empty_like(here)
        for k in range(stop - start):
            old = integers[:, start + k]
            best = old + here[:, k] / (diagonal[:, start + k, None] * scales[:, 0])
            best = np.clip(np.rint(best), site.low[:, 0], site.high[:, 0])
            steps[:, k] = (best - old) * scales[:, 0]
            integers[:, start + k] = best
            here[:, k + 1 :] -= block[:, k + 1 :, k, None] * steps[:, k, None]
        pull -= gram[:, :, start:stop] @ steps
    return integers


def chosen_scales(site: Site, current: Rounding, weights: Array, gram: Array) -> Array:
    """For each output channel the share of its scale with which nearest rounding of `weights` errs least."""
    best, least = current.scales.astype(np.float64), np.full(current.scales.shape, np.inf)
    for share in _SHARES:
        scales = (current.scales * np.float32(share)).astype(np.float64)
        error = nearest(site, weights, scales) * scales - weights
        found = np.einsum("gko,gko->go", error, gram @ error)[:, None, :]
        if current.bias is not None:
            found = np.where(site.fits(current.bias, scales)[:, None, :], found, np.inf)
        best, least = np.where(found < least, scales, best), np.minimum(found, least)
    return best
