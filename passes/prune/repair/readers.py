"""The layers of a network that sum over channels which can go."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups, Layer
from lpcc.calibrate.patches import NoPatches
from lpcc.passes.reconstruct import Reading, by_result

Array = np.ndarray[Any, Any]


def readings(graph: gs.Graph, found: ChannelGroups) -> dict[str, tuple[Reading, Array]]:
    """By the tensor that it makes, each layer that sums over a channel that can go; the channel at each place of a row.

    Layers that cannot be read as a product of rows are left out. Names of nodes need not differ, names of tensors do.
    """
    nodes = by_result(graph)
    result = {}
    for layer in found.layers:
        if layer.reads is None or not found.free[layer.reads].any():
            continue
        try:
            reading = Reading.of(nodes[layer.output])
        except NoPatches:
            continue
        channels = _channels(reading, layer)
        if channels is not None and channels.shape == (reading.window.groups, reading.window.depth):
            result[layer.output] = reading, channels
    return result


def _channels(reading: Reading, layer: Layer) -> Array | None:
    """Channel at each number of a row, (groups, depth); None where the layer does not sum over channels."""
    if layer.reads is None:
        return None
    each = reading.window.depth * reading.window.groups // len(layer.reads)
    return np.repeat(layer.reads.reshape(reading.window.groups, -1), each, axis=1)
