"""`fold-bn`: batch norms go into the weights of the layer before or after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import trains
from lpcc.match import NoMatch, maker, sole_maker, sole_reader
from lpcc.passes.normalize.linear import BROADCASTING, LINEAR, Linear
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass


@dataclass(frozen=True)
class FoldBatchNorm(LocalPass):
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it, else into the one after it.

    In inference a batch norm (Ioffe and Szegedy, 2015, arXiv:1502.03167) is an affine map for each channel,

        y = s x + t,    s = scale / sqrt(var + epsilon),    t = bias - s mean,

    which the weights and the bias of the layer take in: W' = s W, b' = s b + t before it, W' = W s, b' = b + W t
    after it. A MatMul of two dimensions that needs a bias becomes a Gemm.

    Left alone: models below opset 7; a batch norm in training mode, with statistics for each position
    (``spatial=0``, opset below 9), or with parameters that are not constant; one whose neighbour's result is read
    elsewhere too or is a graph output; one before a layer that pads with zeros, which come after the batch norm and
    so are not shifted by it, unless t is 0; one between other operators (after a Concat, say); and weights that
    would leave the range of their type.
    """

    name: ClassVar[str] = "fold-bn"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Fold the batch norms of one graph."""
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "BatchNormalization":
                    continue
                try:
                    scale, shift = _affine(node, int(graph.opset))
                    before = sole_maker(e, node.inputs[0], *LINEAR)
                    if before is not None:
                        _fold_back(e, node, before, scale, shift, changes)
                    else:
                        _fold_forward(e, node, scale, shift, changes)
                except NoMatch as why:
                    changes.refuse(node, str(why))


def _affine(node: gs.Node, opset: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift for each channel, in double precision. Raises NoMatch if the batch norm is no affine map."""
    if opset < BROADCASTING:
        raise NoMatch(f"operators broadcast in their own ways below opset {BROADCASTING}: raise-opset comes first")
    if trains(node, opset) or any(edit.out(node, index) is not None for index in range(1, len(node.outputs))):
        raise NoMatch("it is in training mode")
    if not edit.attr(node, "spatial", 1):
        raise NoMatch("it has statistics for each position (spatial=0)")
    values = [edit.const(edit.inp(node, index)) for index in range(1, 5)]
    with np.errstate(invalid="ignore"):  # a signalling NaN
        gain, bias, mean, variance = (None if v is None else v.astype(np.float64) for v in values)
    if gain is None or bias is None or mean is None or variance is None:
        raise NoMatch("its parameters are not constant")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = gain / np.sqrt(variance + float(edit.attr(node, "epsilon", 1e-5)))
        shift = bias - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise NoMatch("its scale or shift is not finite")
    return scale, shift


def _fold_back(
    e: edit.Edit, node: gs.Node, before: gs.Node, scale: np.ndarray, shift: np.ndarray, changes: Changes
) -> None:
    layer = Linear.of(before)
    if layer.kind == "MatMul" and layer.rank != 2:
        raise NoMatch("the channels of a batch norm are not those of a MatMul of more than two dimensions")
    if len(scale) != layer.outputs:
        raise NoMatch(f"it has {len(scale)} channels and {layer.kind} `{edit.label(before)}` {layer.outputs}")
    layer.scale_outputs(e, scale, shift)
    changes.done(node, f"batch norm folded into the {layer.kind} before it")
    e.bypass(node)


def _fold_forward(e: edit.Edit, node: gs.Node, scale: np.ndarray, shift: np.ndarray, changes: Changes) -> None:
    after = sole_reader(e, node.outputs[0], *LINEAR)
    if after is None or after.inputs[0] is not node.outputs[0]:
        raise NoMatch(_stands_between(e, node))
    layer = Linear.of(after)
    if layer.kind == "MatMul" and layer.rank != 2:
        raise NoMatch("the channels of a batch norm are not those of a MatMul of more than two dimensions")
    if len(scale) != layer.inputs:
        raise NoMatch(f"it has {len(scale)} channels and {layer.kind} `{edit.label(after)}` takes {layer.inputs}")
    layer.scale_inputs(e, scale, shift)
    changes.done(node, f"batch norm folded into the {layer.kind} after it")
    e.bypass(node)


def _stands_between(e: edit.Edit, node: gs.Node) -> str:
    """Why no layer can take a batch norm in."""
    before = maker(e, node.inputs[0])
    if before is not None and edit.op(before) in LINEAR:
        return f"the result of {edit.op(before)} `{edit.label(before)}` is used elsewhere too"
    where = "no node of this graph" if before is None else f"{edit.op(before)} `{edit.label(before)}`"
    return f"it follows {where}, and no Conv or Gemm alone reads it"
