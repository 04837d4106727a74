"""The mean of each channel that a network's activations have by what its batch norms remember."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds
from lpcc.analysis.channels import keeps_channel_means

Array = np.ndarray[Any, Any]
Moments = tuple[Array, Array]
"""Mean and standard deviation of each channel, (C,)."""


def expected_means(graph: gs.Graph, norms: Mapping[str, Moments]) -> dict[str, Array]:
    """By name of an activation the mean of each channel (C,), as far as it follows from the outputs of batch norms.

    `norms` has these (`lpcc.analysis.bn_statistics`). What a batch norm puts out is taken to be normal; a ReLU or Clip
    makes a clipped normal of it (Nagel et al. 2019, arXiv 1906.04721, appendix C), and so does one behind a sum, whose
    operands are taken to be independent. Averages and other shapes keep the mean, if they keep the channels. Behind any
    other operator nothing is known.
    """
    known: dict[str, Moments] = dict(norms)
    means = {name: mean for name, (mean, _) in norms.items()}
    for node in graph.nodes:
        op, result = edit.op(node), edit.out(node)
        if result is None or result.name in means:
            continue
        operands = [known[t.name] for t in node.inputs if t.name in known]
        first = operands[0] if operands and node.inputs[0].name in known else None
        if op in ("Relu", "Clip") and first is not None:
            low, high = (0.0, np.inf) if op == "Relu" else clip_bounds(node)
            if low is not None and high is not None and low < high:
                known[result.name] = clipped_normal(*first, low, high)
        elif op == "Add" and len(operands) == 2 and len(operands[0][0]) == len(operands[1][0]):
            (mean, std), (other, spread) = operands
            known[result.name] = (mean + other, np.hypot(std, spread))
        elif node.inputs and node.inputs[0].name in means and keeps_channel_means(node):
            means[result.name] = means[node.inputs[0].name]
        if result.name in known:
            means[result.name] = known[result.name][0]
    return means


def clipped_normal(mean: Array, std: Array, low: float, high: float) -> Moments:
    """Mean and standard deviation of a normal variable that is clipped to [low, high], elementwise.

    With a = (low - mean) / std, b = (high - mean) / std, and z the normal variable of mean 0 and deviation 1:

        E[clip(z, a, b)]   = phi(a) - phi(b) + a Phi(a) + b (1 - Phi(b))
        E[clip(z, a, b)^2] = Phi(b) - Phi(a) + a phi(a) - b phi(b) + a^2 Phi(a) + b^2 (1 - Phi(b))
    """
    from scipy.special import ndtr

    std = np.maximum(std, 1e-12)
    # Forty deviations are as far as infinity, and can be multiplied with zero.
    a, b = (np.clip((end - mean) / std, -40.0, 40.0) for end in (low, high))
    below, above = ndtr(a), ndtr(-b)
    at_a, at_b = (np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) for x in (a, b))
    first = at_a - at_b + a * below + b * above
    second = 1 - above - below + a * at_a - b * at_b + a**2 * below + b**2 * above
    return mean + std * first, std * np.sqrt(np.maximum(second - first**2, 0.0))
