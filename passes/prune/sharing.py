"""Vectors that several nodes share, such as biases of zeros: a copy for each, so that they tie no channels."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lpcc import edit


def unshare(graph: gs.Graph) -> None:
    """Give each node of the main graph its own copy of vectors that others read too, in place.

    Exporters and `cse` write equal constants once: two batch norms with equal variances read one vector, and their
    channels, which have nothing else in common, could only be removed together. A vector is what is longer than 1
    along one axis at most; weights that are shared stay so. `cse` joins again what is still equal.
    """
    with edit.Edit(graph) as e:
        for node in e.nodes:
            for place, tensor in enumerate(list(node.inputs)):
                if not isinstance(tensor, gs.Constant) or len(e.users(tensor)) < 2 or e.is_output(tensor):
                    continue
                if max(tensor.shape, default=1) > 1 and sum(size != 1 for size in tensor.shape) == 1:
                    e.replace_input(node, place, e.constant(tensor.name, tensor.values))
