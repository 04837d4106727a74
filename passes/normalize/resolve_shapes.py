"""`resolve-shapes`: what exporters compute from shapes at run time is written down where it is known before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import sizes
from lpcc.analysis.shape_values import ShapeValues, shape_values
from lpcc.analysis.sizes import Size
from lpcc.analysis.types import annotate
from lpcc.pipeline import Changes, Context, Fidelity, Pass


@dataclass(frozen=True)
class ResolveShapes(Pass):
    """Replace chains of Shape, Gather, Concat and arithmetic by constants, as far as sizes are known.

    An integer tensor made from sizes that are the same at every run becomes a constant. Where sizes vary:

    - the target of a Reshape is written with 0 (the size of the data at the same place) and at most one -1 (what is
      left), e.g. ``Reshape(x, Concat(Gather(Shape(x), 0), 256))`` with target ``[0, 256]``;
    - the target of an Expand is written with 1 (the size of the data stays);
    - the sizes of a Resize become scales where they are whole multiples of the sizes of the data.

    That two sizes are equal is proven by `lpcc.analysis.shape_values`, from the operators between them, never taken
    from names. Names of dimensions, and so batch, height and width that vary, stay as they are.

    Left alone: targets in which two sizes are known at run time only; Reshape with `allowzero`; Resize with a region
    of interest or with sizes that are no whole multiples. With -1, a tensor without elements cannot be reshaped.
    """

    name: ClassVar[str] = "resolve-shapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Resolve shapes in the graph and in those nested in it."""
        changes = Changes()
        if any(edit.op(node) in _TARGETS or edit.op(node) in ("Shape", "Size") for node in edit.nodes(graph)):
            found = ctx.analysis(shape_values, graph)
            for scope in edit.graphs(graph):
                _resolve(scope, found, scope is graph, changes)
        if changes:
            annotate(graph)  # inference gives up at computed targets, and goes on behind constant ones
        return changes


def _resolve(graph: gs.Graph, found: ShapeValues, outermost: bool, changes: Changes) -> None:
    with edit.Edit(graph) as e:
        for node in reversed(e.nodes):  # so that only what others read becomes a constant
            if _is_known(e, node, found, outermost):
                changes.done(node, "shape computation replaced by its value")
                _settle(e, node, found)
        for node in e.nodes:
            position = _TARGETS.get(edit.op(node))
            target = edit.inp(node, position) if position and e.live(node) else None
            if target is None or isinstance(target, gs.Constant):
                continue
            reason = _REWRITES[edit.op(node)](e, node, found)
            if reason:
                changes.refuse(node, reason)
            else:
                changes.done(node, "computed target made a constant")


def _is_known(e: edit.Edit, node: gs.Node, found: ShapeValues, outermost: bool) -> bool:
    """Whether all results of a node are known integers that may be written as constants."""
    if edit.op(node) == "Constant" or edit.subgraphs(node) or not node.outputs:
        return False
    for tensor in node.outputs:
        if tensor.dtype not in (np.dtype(np.int64), np.dtype(np.int32), np.dtype(bool)):
            return False
        if found.numbers(tensor) is None or (e.is_output(tensor) and not outermost):
            return False
    return True


def _settle(e: edit.Edit, node: gs.Node, found: ShapeValues) -> None:
    outputs = list(node.outputs)
    e.remove(node)
    for tensor in outputs:
        numbers = found.numbers(tensor)
        if numbers is not None and (e.users(tensor) or e.is_output(tensor)):
            e.settle(tensor, numbers.astype(tensor.dtype))


def _reshape(e: edit.Edit, node: gs.Node, found: ShapeValues) -> str:
    static, data = found.static(node.outputs[0]), found.dims(node.inputs[0])
    target = found.value(node.inputs[1])
    if edit.attr(node, "allowzero", 0):
        return "0 means no elements here (`allowzero`)"
    if static is not None and 0 not in static:
        wanted: list[int] = list(static)
    elif target is None:
        return "its target is not known before the model runs"
    else:
        wanted = [_copied(size, data, axis) for axis, size in enumerate(target.reshape(-1))]
        if wanted.count(-1) > 1:
            return "more than one size of its target is known at run time only"
    e.replace_input(node, 1, e.constant(f"{node.outputs[0].name}_shape", np.array(wanted, dtype=np.int64)))
    return ""


def _copied(size: int | Size | None, data: Sequence[int | Size] | None, axis: int) -> int:
    """How a size is written in the target of a Reshape: itself, 0 for "as the data has it", -1 for "what is left"."""
    if isinstance(size, int):
        return size
    return 0 if size is not None and data is not None and axis < len(data) and data[axis] == size else -1


def _expand(e: edit.Edit, node: gs.Node, found: ShapeValues) -> str:
    data, target = found.dims(node.inputs[0]), found.value(node.inputs[1])
    if target is None:
        return "its target is not known before the model runs"
    wanted: list[int] = []
    for axis, size in enumerate(reversed(target.reshape(-1))):
        if isinstance(size, int):
            wanted.append(size)
        elif size is not None and data is not None and axis < len(data) and data[-1 - axis] == size:
            wanted.append(1)
        else:
            return "a size of its target is known at run time only"
    shape = np.array(wanted[::-1], dtype=np.int64)
    e.replace_input(node, 1, e.constant(f"{node.outputs[0].name}_shape", shape))
    return ""


def _resize(e: edit.Edit, node: gs.Node, found: ShapeValues) -> str:
    data, target = found.dims(node.inputs[0]), found.value(node.inputs[3])
    plain = edit.attr(node, "keep_aspect_ratio_policy", "stretch") == "stretch" and "axes" not in node.attrs
    if not plain or edit.attr(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return "it does not stretch all axes"
    if data is None or target is None or len(data) != target.size:
        return "its sizes are not known before the model runs"
    scales = [sizes.divide(size, dim) for size, dim in zip(target.reshape(-1), data, strict=True)]
    even = [s for s, size, dim in zip(scales, target, data, strict=True) if s and sizes.multiply(s, dim) == size]
    if len(even) != len(data) or not all(isinstance(scale, int) and scale > 0 for scale in even):
        return "its sizes are no whole multiples of those of its data"
    e.drop_inputs(node, 3)
    e.replace_input(node, 2, e.constant(f"{node.outputs[0].name}_scales", np.array(even, dtype=np.float32)))
    return ""


_TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3}
_REWRITES = {"Reshape": _reshape, "Expand": _expand, "Resize": _resize}
