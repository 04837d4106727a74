"""`recognise-channel-shuffle`: channel shuffles become one Gather of channels, or go into the next convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shape_values import ShapeValues, shape_values
from lpcc.match import NoMatch, sole_reader
from lpcc.passes.normalize.axes import View
from lpcc.passes.normalize.linear import Linear
from lpcc.pipeline import Changes, Context, Fidelity, Pass

_LONGEST: Final = 4
"""Nodes that move elements about, at most, before the channels are picked."""
_ACTIVATIONS: Final = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu")
_POOLS: Final = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_SLICE_INPUTS: Final = 10


@dataclass(frozen=True)
class RecogniseChannelShuffle(Pass):
    """Recognise permutations of channels that are spelt out in Reshape and Transpose.

    A shuffle of g groups (Zhang et al., 2017, arXiv:1707.01083) is Reshape to (N, g, C/g, H, W), Transpose of the two
    axes in the middle, and Reshape back; exporters also join H and W, or N and C, and pick one half of the result with
    Gather, Slice or Split (Ma et al., 2018, arXiv:1807.11164). All these are ``Gather(x, channels, axis=1)``, which
    does not depend on N, H and W, is one node for three or more, and in onnxruntime never slower. Slices and halves of
    a shuffle become Gathers of x. A permutation of all channels that only convolutions of one group read, also through
    depthwise convolutions, activations and pools, goes into the input channels of their weights and is gone.

    Left alone: what is no permutation of axis 1 for every size of the other axes; shapes and indices that are not
    constant and do not follow from the model's dimensions; intermediate results that are read elsewhere too or are
    graph outputs; a choice of some channels, which a convolution could take in only with more arithmetic.
    """

    name: ClassVar[str] = "recognise-channel-shuffle"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Turn shuffles into Gathers, join these with the Slices behind them, and fold those that can be."""
        changes = Changes()
        if any(edit.op(node) == "Reshape" for node in edit.nodes(graph)):
            found = ctx.analysis(shape_values, graph)
            for scope in edit.graphs(graph):
                with edit.Edit(scope) as e:
                    for node in e.nodes:
                        if e.live(node) and edit.op(node) == "Reshape":
                            _recognise(e, node, found, changes)
        for scope in edit.graphs(graph):
            _simplify(scope, changes)
        return changes


def _simplify(graph: gs.Graph, changes: Changes) -> None:
    """Join Gathers of channels with the Slices behind them, and fold those that can be."""
    with edit.Edit(graph) as e:
        for node in e.nodes:
            if e.live(node) and _picked(node) is not None:
                _pick_through(e, node, int(graph.opset), changes)
    with edit.Edit(graph) as e:
        for node in e.nodes:
            channels = _picked(node)
            if channels is None or not _is_permutation(node, channels):
                continue
            try:
                _fold(e, node, channels)
            except NoMatch as why:
                changes.refuse(node, str(why))
                continue
            changes.done(node, "channel shuffle folded into the convolutions after it")
            e.bypass(node)


def _recognise(e: edit.Edit, first: gs.Node, found: ShapeValues, changes: Changes) -> None:
    """Replace the chain of nodes that starts at a Reshape by Gathers of channels, if it moves channels alone."""
    source = first.inputs[0]
    dims = found.dims(source)
    view = None if dims is None or len(dims) < 3 else View.of(dims)
    node: gs.Node | None = first
    chain: list[gs.Node] = []
    while view is not None and node is not None and len(chain) < _LONGEST:
        view = _moved(view, node, found)
        chain.append(node)
        ends = [] if view is None else _ends(e, view, node)
        if ends:
            changes.done(first, "channel shuffle made a Gather")
            _gather(e, source, [*chain, *(end for end, _ in ends)], [(end.outputs[0], c) for end, c in ends])
            return
        node = sole_reader(e, node.outputs[0], "Reshape", "Transpose")


def _moved(view: View, node: gs.Node, found: ShapeValues) -> View | None:
    """What a Reshape or a Transpose makes of a view. A size that is none of its factors' joins what is left."""
    if edit.op(node) == "Transpose":
        return view.transposed(edit.attr(node, "perm", list(range(len(view.axes)))[::-1]))
    shape = edit.const(edit.inp(node, 1))
    if shape is not None:
        sizes = [int(size) for size in shape.reshape(-1)]
        return None if edit.attr(node, "allowzero", 0) and 0 in sizes else view.reshaped(sizes)
    known = found.dims(node.outputs[0])
    if known is None or 0 in known:
        return None
    factors = {factor.size for axis in view.axes for factor in axis}
    return view.reshaped([size if isinstance(size, int) or size in factors else -1 for size in known])


def _ends(e: edit.Edit, view: View, node: gs.Node) -> list[tuple[gs.Node, np.ndarray]]:
    """Where a view, made by `node`, is some channels of its source: at the node, or at all of its readers."""
    tensor, whole = node.outputs[0], view.channels()
    if whole is not None and not np.array_equal(whole, np.arange(view.channel_count)):
        return [(node, whole)]
    ends = []
    for reader in e.users(tensor):
        index = edit.const(edit.inp(reader, 1)) if edit.op(reader) == "Gather" else None
        if index is None or index.size != 1 or index.ndim > 1 or reader.inputs[0] is not tensor or not e.owns(reader):
            return []
        axis = int(edit.attr(reader, "axis", 0)) % len(view.axes)
        picked = view.picked(axis, int(index.reshape(-1)[0]), keep=index.ndim == 1)
        channels = None if picked is None else picked.channels()
        if channels is None:
            return []
        ends.append((reader, channels))
    return [] if e.is_output(tensor) else ends


def _gather(
    e: edit.Edit, source: gs.Tensor, old: Sequence[gs.Node], results: Sequence[tuple[gs.Tensor, np.ndarray]]
) -> None:
    """Replace nodes by Gathers of channels of `source`, one for each result."""
    names = {id(node.outputs[0]): node.name for node in old}
    for node in {id(node): node for node in old}.values():
        e.remove(node)
    for tensor, channels in results:
        indices = e.constant(f"{tensor.name}_channels", channels)
        e.add("Gather", [source, indices], [tensor], {"axis": 1}, name=names.get(id(tensor), ""))


def _picked(node: gs.Node) -> np.ndarray | None:
    """The channels that a Gather picks; None for any other node."""
    shape = node.inputs[0].shape if edit.op(node) == "Gather" else None
    indices = edit.const(edit.inp(node, 1)) if shape is not None else None
    if shape is None or indices is None or indices.ndim != 1 or len(shape) < 3 or not isinstance(shape[1], int):
        return None
    if int(edit.attr(node, "axis", 0)) % len(shape) != 1 or np.any((indices < -shape[1]) | (indices >= shape[1])):
        return None
    return indices.astype(np.int64) % shape[1]


def _pick_through(e: edit.Edit, node: gs.Node, opset: int, changes: Changes) -> None:
    """Let the Slices, Splits and Gathers that read picked channels pick them from the source."""
    tensor, channels = node.outputs[0], _picked(node)
    readers = e.users(tensor)
    if channels is None or e.is_output(tensor) or not readers:
        return
    results: list[tuple[gs.Tensor, np.ndarray]] = []
    for reader in readers:
        parts = _parts(reader, channels, opset) if e.owns(reader) and reader.inputs[0] is tensor else None
        if parts is None:
            return
        results += parts
    if len(results) > len(readers) + 1:
        return
    changes.done(node, "parts of a channel shuffle made Gathers")
    _gather(e, node.inputs[0], [node, *readers], results)


def _parts(reader: gs.Node, channels: np.ndarray, opset: int) -> list[tuple[gs.Tensor, np.ndarray]] | None:
    """The results of a node that reads some channels, and which channels of the source they are."""
    kind = edit.op(reader)
    if kind == "Gather":
        picked = _picked(reader)
        return None if picked is None else [(reader.outputs[0], channels[picked])]
    if kind == "Slice" and opset >= _SLICE_INPUTS:
        values = [edit.const(edit.inp(reader, index)) for index in (1, 2, 3)]
        steps = edit.inp(reader, 4)
        if any(value is None or value.size != 1 for value in values) or (steps is not None and _number(steps) is None):
            return None
        start, end, axis = (int(value.reshape(-1)[0]) for value in values if value is not None)
        step = 1 if steps is None else _number(steps) or 1
        return [(reader.outputs[0], channels[start:end:step])] if axis == 1 and step > 0 else None
    if kind != "Split" or int(edit.attr(reader, "axis", 0)) != 1:
        return None
    given = edit.const(edit.inp(reader, 1)) if edit.inp(reader, 1) is not None else edit.attr(reader, "split")
    count = len(reader.outputs)
    if given is None and (edit.inp(reader, 1) is not None or len(channels) % count):
        return None
    sizes = [len(channels) // count] * count if given is None else [int(size) for size in given]
    parts = np.split(channels, np.cumsum(sizes)[:-1])
    return [(tensor, part) for tensor, part in zip(reader.outputs, parts, strict=True) if tensor.name]


def _number(tensor: gs.Tensor) -> int | None:
    value = edit.scalar(tensor)
    return None if value is None else int(value)


def _is_permutation(node: gs.Node, channels: np.ndarray) -> bool:
    return np.array_equal(np.sort(channels), np.arange(node.inputs[0].shape[1]))


def _fold(e: edit.Edit, node: gs.Node, channels: np.ndarray) -> None:
    """Let the convolutions behind a Gather read unpermuted channels. Raises NoMatch, with nothing changed."""
    dense: list[Linear] = []
    depthwise: list[Linear] = []
    passed: list[gs.Node] = []
    todo: list[gs.Tensor] = [node.outputs[0]]
    while todo:
        tensor = todo.pop()
        if e.is_output(tensor):
            raise NoMatch(f"`{tensor.name}` is a graph output")
        for reader in e.users(tensor):
            kind, where = edit.op(reader), f"{edit.op(reader)} `{edit.label(reader)}`"
            if not e.owns(reader) or reader.inputs[0] is not tensor or kind not in ("Conv", *_ACTIVATIONS, *_POOLS):
                raise NoMatch(f"{where} reads it in this order")
            if kind == "Conv":
                layer = Linear.of(reader)
                if layer.groups == 1:
                    dense.append(layer)
                    continue
                if not layer.groups == layer.inputs == layer.outputs:
                    raise NoMatch(f"{where} reads it in groups")
                depthwise.append(layer)
            elif edit.out(reader, 1) is not None:
                raise NoMatch(f"{where} gives indices")
            passed.append(reader)
            todo.append(reader.outputs[0])
    for layer in dense:
        layer.permute_inputs(e, channels)
    for layer in depthwise:
        layer.permute_groups(e, channels)
    for reader in passed:  # what they give is in another order now, and has another name
        old = reader.outputs[0]
        new = e.fresh(f"{old.name}_unshuffled", old.dtype, old.shape)
        e.replace_uses(old, new)
        e.replace_output(reader, 0, new)
