"""Where to start from to bring a sum of rank-one terms close to a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpcc.passes.factorize.methods.als import Terms

Array = np.ndarray[Any, Any]

_EXACT = 1e-12
"""Share of the largest singular value below which one is rounding."""


def triples(tensor: Array) -> Terms:
    """The singular triples of the slices of a tensor, largest first: all of them are the tensor, exactly.

    A slice has the two largest modes, ``T[:, :, k] = sum of s u v^T``, which gives the terms ``s u o v o e_k``. These
    are at right angles: of all sums of such terms the first R are closest. Triples of 0 are left out, but for one.
    """
    sizes = np.array(tensor.shape)
    own = sorted(np.argsort(-sizes, kind="stable")[:2].tolist())
    others = [mode for mode in range(tensor.ndim) if mode not in own]
    slices = np.moveaxis(tensor, others, range(len(others))).reshape(-1, *sizes[own])
    left, values, right = np.linalg.svd(slices, full_matrices=False)
    order = np.argsort(-values, axis=None, kind="stable")
    order = order[: max(1, int((values > _EXACT * values.max()).sum()))]
    place, which = np.unravel_index(order, values.shape)
    factors: dict[int, Array] = {own[0]: (left[place, :, which] * values[place, which, None]).T}
    factors[own[1]] = right[place, which].T
    for mode, index in zip(others, np.unravel_index(place, sizes[others]), strict=True):
        factors[mode] = np.eye(sizes[mode])[:, index]
    return Terms(tuple(factors[mode] for mode in range(tensor.ndim)))


def hosvd(tensor: Array, rank: int, seed: int) -> Terms:
    """The leading singular vectors of each unfolding; where there are fewer than terms, random ones beside them."""
    from tensorly.decomposition._cp import initialize_cp

    return Terms(tuple(initialize_cp(tensor, rank, init="svd", svd=_leading, random_state=seed).factors))


def normal(shape: tuple[int, ...], rank: int, rng: np.random.Generator) -> Terms:
    """Factors of independent normal numbers."""
    return Terms(tuple(rng.normal(size=(size, rank)) for size in shape))


def bases(tensor: Array, rank: int) -> list[Array | None]:
    """For each mode larger than `rank` its leading singular vectors, (size, rank); None for the others.

    A sum of R terms lives in R directions of each mode. In these, which are about the best R, the tensor is smaller
    (CANDELINC, Carroll et al. 1980; Bro and Andersson 1998).
    """
    return [
        _leading(_unfolded(tensor, mode), rank)[0] if size > rank else None for mode, size in enumerate(tensor.shape)
    ]


def turned(tensor: Array, matrices: list[Array | None]) -> Array:
    """A tensor with each mode multiplied by its matrix from the left (None: the identity)."""
    for mode, matrix in enumerate(matrices):
        if matrix is not None:
            tensor = np.moveaxis(np.tensordot(matrix, tensor, axes=(1, mode)), 0, mode)
    return tensor


def _unfolded(tensor: Array, mode: int) -> Array:
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def _leading(matrix: Array, n_eigenvecs: int, **_options: object) -> tuple[Array, Array, Array]:
    """Left singular vectors and values by the smaller Gram matrix; right ones, which nobody reads, are zeros."""
    if matrix.shape[0] <= matrix.shape[1]:
        squares, left = np.linalg.eigh(matrix @ matrix.T)
        values = np.sqrt(np.maximum(squares[::-1], 0.0))
        left = left[:, ::-1]
    else:
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    left, values = left[:, :n_eigenvecs], values[:n_eigenvecs]
    return left, values, np.zeros((len(values), 1))
