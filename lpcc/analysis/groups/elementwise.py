"""Operators that treat each place of a tensor alike, or whole planes of it: what they read and write has one label."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups.labels import Array, Trace, ints
from lpcc.analysis.purity import trains
from lpcc.analysis.shape_values import Dims
from lpcc.match import NoMatch


def same(trace: Trace, node: gs.Node) -> None:
    """An operator on each element alone; further inputs are scalars."""
    axes = trace.of(node.inputs[0])
    for tensor in node.outputs:
        if tensor.name:
            trace.note(tensor, axes)


def broadcast(trace: Trace, node: gs.Node) -> None:
    """An operator on elements at the same place of its operands, which broadcast."""
    if "broadcast" in node.attrs:
        raise NoMatch("it broadcasts by an attribute, as in opset 6")
    operands = [tensor for tensor in node.inputs if tensor.name]
    axes = aligned(trace, node, [(trace.of(tensor), trace.dims(tensor)) for tensor in operands])
    trace.note(node.outputs[0], axes)


def aligned(trace: Trace, node: gs.Node, operands: Sequence[tuple[Sequence[Array | None], Dims]]) -> list[Array | None]:
    """Labels of what operands broadcast to, each given as its labels and its shape."""
    rank = max(len(dims) for _, dims in operands)
    result: list[Array | None] = []
    for axis in range(rank):
        places = [
            (axes[axis - rank], dims[axis - rank]) for axes, dims in operands if len(dims) >= rank - axis and len(dims)
        ]
        sizes = {size for _, size in places if size != 1}
        labelled = [labels for labels, _ in places if labels is not None]
        longest = max(map(len, labelled), default=0)
        rigid = len(sizes) > 1 or any(labels is None and size != 1 for labels, size in places)
        for labels in labelled:
            if rigid or len(labels) != longest:
                trace.labels.pin(labels, f"{node.op} `{edit.label(node)}` joins it with what is fixed")
            elif labels is not labelled[0]:
                trace.labels.join(labelled[0], labels)
        full = [labels for labels in labelled if len(labels) == longest]
        result.append(full[0] if full and (longest > 1 or sizes <= {1}) else None)
    return result


def pool(trace: Trace, node: gs.Node) -> None:
    """Windows within planes: samples and channels stay, the other axes have no labels any more."""
    if len([tensor for tensor in node.outputs if tensor.name]) > 1:
        raise NoMatch("it gives the places of what it found")
    axes = trace.of(node.inputs[0])
    for labels in axes[2:]:
        trace.labels.pin(labels, f"{node.op} `{edit.label(node)}` slides over it")
    trace.note(node.outputs[0], [*axes[:2], *[None] * (len(axes) - 2)])


def resize(trace: Trace, node: gs.Node) -> None:
    """An axis that keeps its length, by a scale of one, keeps its labels."""
    if edit.attr(node, "coordinate_transformation_mode") in ("tf_crop_and_resize", b"tf_crop_and_resize"):
        raise NoMatch("it crops")
    x, y = node.inputs[0], node.outputs[0]
    before, after = trace.dims(x), trace.dims(y)
    sizes = edit.inp(node, 3)
    entries = trace.numbers(sizes)
    trace.control(sizes)
    listed = [int(axis) % len(before) for axis in edit.attr(node, "axes", range(len(before)))]
    scaled = _scaled(trace, node, listed) if sizes is None else set()
    result: list[Array | None] = []
    for axis, labels in enumerate(trace.of(x)):
        known = sizes is None or axis not in listed or (entries is not None and entries[listed.index(axis)] is not None)
        keeps = labels is not None and before[axis] == after[axis] and known and axis not in scaled
        if not keeps:
            trace.labels.pin(labels, f"Resize `{edit.label(node)}` mixes it")
        result.append(labels if keeps else None)
    trace.note(y, result)


def _scaled(trace: Trace, node: gs.Node, listed: Sequence[int]) -> set[int]:
    """The axes that a Resize or Upsample scales by something else than one, though the size may be the same."""
    if "scales" in node.attrs:
        scales: Sequence[float] | None = node.attrs["scales"]
    else:
        given = edit.inp(node, 1 if edit.op(node) == "Upsample" or trace.opset < 11 else 2)
        values = edit.const(given)
        scales = None if values is None else values.reshape(-1).tolist()
    if scales is None:
        return set()  # sizes of axes say what there is to know
    return {axis for axis, scale in zip(listed, scales, strict=False) if scale != 1}


def batch_norm(trace: Trace, node: gs.Node) -> None:
    """Numbers for each channel, axis 1: a BatchNormalization that does not train, an InstanceNormalization."""
    if trains(node, trace.opset):
        raise NoMatch("it is in training mode")
    axes = list(trace.of(node.inputs[0]))
    if len(axes) < 2:
        raise NoMatch("it reads what has no channels")
    if edit.op(node) == "InstanceNormalization":
        for labels in axes[2:]:
            trace.labels.pin(labels, f"InstanceNormalization `{edit.label(node)}` takes statistics over it")
    if any(len(trace.dims(tensor)) != 1 for tensor in node.inputs[1:]):
        raise NoMatch("it has numbers for each place")
    for tensor in node.inputs[1:]:
        (numbers,) = trace.of(tensor)
        axes[1] = trace.meet(axes[1], numbers, f"{node.op} `{edit.label(node)}` reads what is fixed")
    trace.note(node.outputs[0], axes)


def normalised(trace: Trace, node: gs.Node) -> None:
    """Softmax and its like: what one place becomes depends on the others along some axes."""
    x = node.inputs[0]
    rank = len(trace.dims(x))
    op = edit.op(node)
    if op in ("LayerNormalization", "RMSNormalization"):
        over = set(range(int(edit.attr(node, "axis", -1)) % rank, rank))
    elif op in ("LRN", "GroupNormalization"):
        over = set(range(1, rank))
    elif op == "MeanVarianceNormalization":
        over = {int(axis) % rank for axis in edit.attr(node, "axes", [0, 2, 3])}
    elif op in ("Softmax", "LogSoftmax", "Hardmax") and trace.opset < 13:
        over = set(range(int(edit.attr(node, "axis", 1)) % rank, rank))
    elif op == "CumSum":
        given = ints(trace, node, "axis", 1)
        over = set(range(rank)) if given is None else {given[0] % rank}
    else:
        over = {int(edit.attr(node, "axis", -1)) % rank}
    reason = f"{op} `{edit.label(node)}` runs over it"
    for axis, labels in enumerate(trace.of(x)):
        if axis in over:
            trace.labels.pin(labels, reason)
    if op in ("LayerNormalization", "RMSNormalization", "GroupNormalization"):
        for tensor in node.inputs[1:]:
            if tensor.name:
                trace.fixed(tensor, reason)
    for tensor in node.outputs[1:]:
        if tensor.name:
            trace.fixed(tensor, reason)
    trace.note(node.outputs[0], trace.of(x))


def reduce(trace: Trace, node: gs.Node) -> None:
    """Sums over channels leave nothing of a channel that is zero; means, and extremes, are others without it."""
    x = node.inputs[0]
    before, op = trace.dims(x), edit.op(node)
    rank = len(before)
    if op in ("ArgMax", "ArgMin"):
        axes: list[int] | None = [int(edit.attr(node, "axis", 0))]
    else:
        axes = ints(trace, node, "axes", 1)
        if axes is None and edit.inp(node, 1) is not None:
            raise NoMatch("its axes are not constant")
        if not axes and not edit.attr(node, "noop_with_empty_axes", 0):
            axes = list(range(rank))
    over = {axis % rank for axis in axes or ()}
    keeps = bool(edit.attr(node, "keepdims", 1))
    result: list[Array | None] = []
    for axis, labels in enumerate(trace.of(x)):
        if axis not in over:
            result.append(labels)
            continue
        if keeps:
            result.append(None)
        if op in ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"):
            trace.layers.append((node, labels, None))
        else:
            trace.labels.pin(labels, f"{op} `{edit.label(node)}` is over channels")
    trace.note(node.outputs[0], result)


def quantize(trace: Trace, node: gs.Node) -> None:
    """QuantizeLinear and DequantizeLinear, with one scale or one for each place of an axis."""
    if edit.attr(node, "block_size", 0):
        raise NoMatch("it has a scale for each block")
    axes = list(trace.of(node.inputs[0]))
    for tensor in node.inputs[1:]:
        dims = trace.dims(tensor) if tensor.name else ()
        if dims and dims != (1,):
            axis = int(edit.attr(node, "axis", 1)) % len(axes)
            (scales,) = trace.of(tensor)
            axes[axis] = trace.meet(axes[axis], scales, f"{node.op} `{edit.label(node)}` reads what is fixed")
    trace.note(node.outputs[0], axes)
