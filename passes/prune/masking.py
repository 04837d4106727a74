"""What a network without some channels computes, said by the network with them: they are zero wherever they stand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.graph import clone
from lpcc.match import is_float

Array = np.ndarray[Any, Any]

_WHERE = 9  # the opset that has it


def zeroed(graph: gs.Graph, found: ChannelGroups, channels: Collection[int] | Array) -> gs.Graph:
    """A copy of a graph in which channels are zero in every tensor that is computed and holds them.

    That is what `remove` keeps: the two give equal outputs, within rounding. Costs as much as the graph itself, and
    more; good for asking what a removal would do before it is done, with all channels in their place.
    """
    kept = found.kept(channels)
    copy = clone(graph)
    with edit.Edit(copy) as e:
        for node in e.nodes:
            for tensor in node.outputs:
                if tensor.name in kept and is_float(tensor.dtype) and edit.op(node) != "Constant":
                    _mask(e, node, tensor, kept[tensor.name], len(found.labels[tensor.name]))
    return copy


def _mask(e: edit.Edit, node: gs.Node, tensor: gs.Variable, kept: dict[int, Array], rank: int) -> None:
    """Let all that read `tensor` read zeros where nothing is kept, from opset 9 on also in place of infinities."""
    gone = np.zeros([1] * rank, dtype=bool)
    for axis, places in kept.items():
        gone = np.asarray(gone | ~places.reshape([-1 if at == axis else 1 for at in range(rank)]))
    at = next(at for at, output in enumerate(node.outputs) if output is tensor)
    before = e.fresh(f"{tensor.name}_unmasked", tensor.dtype, tensor.shape)
    e.replace_output(node, at, before)
    if int(e.graph.opset) < _WHERE:
        e.add("Mul", [before, e.constant(f"{tensor.name}_kept", (~gone).astype(tensor.dtype))], [tensor])
        return
    nothing = e.constant(f"{tensor.name}_zero", np.zeros((), dtype=tensor.dtype))
    e.add("Where", [e.constant(f"{tensor.name}_gone", gone), nothing, before], [tensor])
