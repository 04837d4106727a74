"""How many images can be in a network at a time."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.shapes import bind

_BYTES = 1 << 28
"""Memory for the activations that are held, about."""
_LEAST = 16


def images_held(graph: gs.Graph, most: int, memory: int = _BYTES) -> int:
    """Images, `most` at most, whose activations at any place of the graph fit into so many bytes, about, or 16."""
    shapes = bind(graph)
    largest = max((shapes.nbytes(t) for node in graph.nodes for t in node.outputs), default=0)
    return int(np.clip(memory // (3 * max(largest, 1)), _LEAST, most))
