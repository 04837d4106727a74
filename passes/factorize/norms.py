"""Statistics for the batch norms between two layers for one: training goes on from the function that is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.calibrate.channels import measure_channels
from lpcc.data import Dataset
from lpcc.errors import ModelError
from lpcc.graph import clone, to_proto
from lpcc.passes.factorize.emit import Norm
from lpcc.passes.factorize.fitting import Fits

_EPSILON = 1e-5
"""Of the batch norms, and the least variance."""


def norms(
    graph: gs.Graph,
    fits: Fits,
    data: Dataset | None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Norm]:
    """For each layer of `fits` that becomes two, by the tensor that it makes, a batch norm to stand between them.

    It has the mean and variance of what the first of the two makes of `data` in the network cut as `fits` says: with
    the statistics of a batch in their place, as in training, the network computes nearly the same. Mean 0 and variance
    1 where nothing is measured: without data, where onnxruntime cannot run the network, and where numbers are not
    finite or not of float32. Layers whose result has its channels on another axis than the second, where a batch norm
    expects them, are left out.
    """
    trial = clone(graph)
    between: dict[str, str] = {}
    for node in fits.write(trial):
        result = str(node.outputs[0].name)
        if len(fits.factorised[result].factors.stages) == 2 and _takes_norm(node):
            between[result] = str(node.inputs[0].name)
    seen = {}
    if data is not None and between:
        with suppress(ModelError):  # a type that onnxruntime has no kernels for: weights alone need no run
            seen = measure_channels(to_proto(trial), between.values(), data, progress)
    found = {}
    for result, name in between.items():
        first = fits.factorised[result].factors.stages[0]
        channels = first.groups * first.tensor.shape[1]
        mean, variance = np.zeros(channels), np.full(channels, 1 - _EPSILON)
        if name in seen:
            mean, variance = seen[name].mean, np.maximum(seen[name].variance, _EPSILON)
        found[result] = Norm(mean, variance, _EPSILON)
    return found


def _takes_norm(last: gs.Node) -> bool:
    """Whether what the last layer reads has its channels on the second axis."""
    shape = last.inputs[0].shape
    return edit.op(last) != "MatMul" or (shape is not None and len(shape) == 2)
