"""Layers that read what is left of their channels, refitted one by one to what they made of all of them.

Each from sums over the original network alone, in closed form. With H the (centred) second moments of what a layer
reads, k the numbers that are left of a row and W the weights,

    W_k' = (H_kk + r I)^-1 (H + r I)_k: W        the least squares fit of X W by X_k W_k'
    b'   = b + mean(X) W - mean(X_k) W_k'

as He, Zhang and Sun, Channel pruning for accelerating very deep neural networks (2017, arXiv 1707.06168), equation 3,
and Luo, Wu and Lin, ThiNet (2017, arXiv 1707.06342), with the small ridge r.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.calibrate.patches import NoPatches
from lpcc.passes.reconstruct import Reading, Sums, by_result, solved

Array = np.ndarray[Any, Any]

Layers = Mapping[str, tuple[Reading, Array]]
"""By the tensor that each makes, layers of the original network, and the channel at each number of a row."""


def refit_readers(
    graph: gs.Graph, found: ChannelGroups, channels: Collection[int], layers: Layers, sums: Mapping[str, Sums]
) -> list[str]:
    """Give the layers of `graph` that read fewer channels the weights and biases of the least squares fit.

    `found`, `layers` and `sums` are of the network before `channels` were removed. Returns the names of the layers that
    were refitted; those stay as they are that are not in `sums`, or whose fit is not finite in the type of the weights.
    """
    return _refit(graph, found, channels, layers, sums, _fitted)


def refit_biases(
    graph: gs.Graph, found: ChannelGroups, channels: Collection[int], layers: Layers, sums: Mapping[str, Sums]
) -> list[str]:
    """Let biases alone make up for what is gone, by its means: ``b' = b + mean(X_gone) W_gone``. Else as above.

    A MatMul has no bias and stays as it is.
    """
    biased = {name: layer for name, layer in layers.items() if layer[0].takes_bias}
    return _refit(graph, found, channels, biased, sums, _kept)


def _refit(
    graph: gs.Graph,
    found: ChannelGroups,
    channels: Collection[int],
    layers: Layers,
    sums: Mapping[str, Sums],
    fit: Callable[[Sums, Array, Array], Array],
) -> list[str]:
    gone = np.zeros(found.count, dtype=bool)
    gone[np.asarray(list(channels), dtype=np.intp)] = True
    kept = found.kept(channels)
    nodes = by_result(graph)
    refitted = []
    with edit.Edit(graph) as e:
        for name, (before, numbers) in layers.items():
            lost = gone[numbers]
            if name not in sums or not lost.any():
                continue
            weights, mean = before.matrix(), sums[name].mean
            made = outputs_left(kept, before)
            try:
                fitted = fit(sums[name], weights, ~lost)
                left = mean[~lost].reshape(len(mean), -1)
                bias = before.bias() + np.einsum("gd,gdo->go", mean, weights) - np.einsum("gd,gdo->go", left, fitted)
                Reading.of(nodes[name]).write(e, of_outputs(fitted, made), of_outputs(bias[:, None], made)[:, 0])
            except NoPatches:
                continue
            refitted.append(before.name)
    return refitted


def outputs_left(kept: Mapping[str, Mapping[int, Array]], layer: Reading) -> Array:
    """Which outputs of a layer are left, bool (groups, outputs)."""
    window = layer.window
    axes = kept.get(layer.target, {})
    shape = layer.node.outputs[0].shape
    last = max(axes, default=0) if shape is None else len(shape) - 1
    left = axes.get(last if window.kernel is None else 1)
    if left is None:
        return np.ones((window.groups, window.outputs), dtype=bool)
    return np.asarray(left.reshape(window.groups, window.outputs))


def of_outputs(values: Array, left: Array) -> Array:
    """The columns (groups, n, outputs) that are left, of each group as many."""
    groups, count = values.shape[:2]
    return np.asarray(values.transpose(0, 2, 1)[left].reshape(groups, -1, count).transpose(0, 2, 1))


def _fitted(sums: Sums, weights: Array, left: Array) -> Array:
    """Weights of what is left, (groups, left, outputs), by least squares."""
    damped = sums.damped()
    result = []
    for gram, matrix, rows in zip(damped, weights, left, strict=True):
        result.append(solved(gram[np.ix_(rows, rows)], gram[rows] @ matrix))
    return np.stack(result)


def _kept(sums: Sums, weights: Array, left: Array) -> Array:
    """Weights of what is left, (groups, left, outputs), as they are."""
    del sums
    return np.stack([matrix[rows] for matrix, rows in zip(weights, left, strict=True)])
