"""`fuse-matmul-add`: MatMul and Add become Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.match import NoMatch, sole_reader, with_constant
from lpcc.passes.normalize.linear import BROADCASTING
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass


@dataclass(frozen=True)
class FuseMatMulAdd(LocalPass):
    """Fuse MatMul with a constant matrix and Add of a constant row into Gemm: x W + b.

    Left alone: models below opset 7; inputs of other than two dimensions, or of unknown rank, which Gemm does not
    take; a sum with what is not one row (``[N]`` or ``[1,N]`` for N columns, or one number); products that are read
    elsewhere too or are graph outputs; types that Gemm does not compute in.
    """

    name: ClassVar[str] = "fuse-matmul-add"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Fuse the products of one graph."""
        if graph.opset < BROADCASTING:
            return
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "MatMul" or not isinstance(node.inputs[1], gs.Constant):
                    continue
                add = sole_reader(e, node.outputs[0], "Add")
                found = None if add is None else with_constant(add)
                if add is None or found is None:
                    continue
                try:
                    _check(node, found[1])
                except NoMatch as why:
                    changes.refuse(node, str(why))
                    continue
                changes.done(node, "MatMul and Add fused into Gemm")
                x, weight = node.inputs
                target = add.outputs[0]
                e.remove(add)
                e.remove(node)
                e.add("Gemm", [x, weight, found[1]], [target], name=node.name)


def _check(node: gs.Node, bias: gs.Constant) -> None:
    """Raise NoMatch if a product and a bias are not what Gemm takes."""
    x, weight = node.inputs
    if np.dtype(weight.dtype).name not in ("float16", "float32", "float64"):
        raise NoMatch(f"Gemm is not for {np.dtype(weight.dtype).name}")
    if x.shape is None:
        raise NoMatch("the rank of its input is not known")
    if len(x.shape) != 2 or len(weight.shape) != 2:
        raise NoMatch(f"it has {max(len(x.shape), len(weight.shape))} dimensions, and Gemm takes two")
    rows, columns = ([1, 1] + [int(size) for size in bias.shape])[-2:]
    if len(bias.shape) > 2 or rows != 1 or columns not in (1, int(weight.shape[1])):
        raise NoMatch(f"the constant of shape {list(bias.shape)} that is added is not one row")
