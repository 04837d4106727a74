"""What batch norms know about the images that a network was trained on."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import trains
from lpcc.analysis.shapes import constant_of


def bn_statistics(graph: gs.Graph) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation of each channel (C,) at the output of every batch norm, by tensor name.

    A batch norm gives ``gamma (x - mean) / sqrt(var + eps) + beta``. On the training images its output therefore has
    the mean beta and the standard deviation |gamma| (Nagel et al., "Data-Free Quantization", arXiv 1906.04721, eq. 12).
    Folding a batch norm leaves the name of its output in place, so take the statistics before. Batch norms in training
    mode, and those whose parameters are no constants, say nothing and are left out.
    """
    found = {}
    for node in graph.nodes:
        if edit.op(node) != "BatchNormalization" or trains(node, graph.opset):
            continue
        gamma, beta = _values(edit.inp(node, 1)), _values(edit.inp(node, 2))
        output = edit.out(node)
        if gamma is not None and beta is not None and output is not None:
            found[str(output.name)] = (np.asarray(beta, np.float64), np.abs(np.asarray(gamma, np.float64)))
    return found


def _values(tensor: gs.Tensor | None) -> np.ndarray | None:
    constant = constant_of(tensor)  # the default of an input, too: old exporters list all weights as inputs
    return None if constant is None else np.asarray(constant.values)
