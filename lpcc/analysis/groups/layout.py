"""Operators that move elements about: reshaping, joining, cutting and picking along axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import sizes
from lpcc.analysis.groups.labels import Array, Trace, ints
from lpcc.analysis.shape_values import Dims
from lpcc.analysis.sizes import Size
from lpcc.match import NoMatch

_LARGEST = 2**22  # elements of a block of axes that is reshaped


def transpose(trace: Trace, node: gs.Node) -> None:
    """The axes in another order."""
    axes = trace.of(node.inputs[0])
    order = edit.attr(node, "perm", list(reversed(range(len(axes)))))
    trace.note(node.outputs[0], [axes[axis] for axis in order])


def reshape(trace: Trace, node: gs.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: each block of axes that becomes another one keeps its labels.

    Channels that are joined with fixed axes, as by Flatten, have several places each: as many as the others have.
    """
    x, y = node.inputs[0], node.outputs[0]
    before, after = trace.dims(x), trace.dims(y)
    if edit.op(node) in ("Squeeze", "Unsqueeze"):
        ints(trace, node, "axes", 1)  # noted as what says a shape
    axes = trace.of(x)
    result: list[Array | None] = [None] * len(after)
    for old, new in _blocks(before, after):
        result[new] = _block(trace, node, axes[old], before[old], after[new])
    if edit.op(node) == "Reshape":
        trace.control(edit.inp(node, 1))
        target = trace.numbers(edit.inp(node, 1))
        for axis, labels in enumerate(result):
            if labels is not None and (target is None or len(target) != len(after) or target[axis] is None):
                trace.labels.pin(labels, f"Reshape `{edit.label(node)}` computes the size of it")
    trace.note(y, result)


def _blocks(before: Dims, after: Dims) -> Iterator[tuple[slice, slice]]:
    """The smallest runs of axes with as many elements before as after. Raises NoMatch where they are not clear."""
    i = j = 0
    while i < len(before) and j < len(after):
        start = i, j
        p: int | Size = before[i]
        q: int | Size = after[j]
        i, j = i + 1, j + 1
        while p != q:
            longer = sizes.divide(p, q) if p != 0 and q != 0 else None
            if isinstance(p, int) and isinstance(q, int):
                more_before = p < q
            elif longer is not None:
                more_before = False
            elif sizes.divide(q, p) is not None:
                more_before = True
            else:
                raise NoMatch("how it splits and joins axes is not known")
            if (i if more_before else j) >= len(before if more_before else after):
                raise NoMatch("how it splits and joins axes is not known")
            product = sizes.multiply(p, before[i]) if more_before else sizes.multiply(q, after[j])
            if product is None:
                raise NoMatch("how it splits and joins axes is not known")
            if more_before:
                p, i = product, i + 1
            else:
                q, j = product, j + 1
        yield slice(start[0], i), slice(start[1], j)
    if any(size != 1 for size in (*before[i:], *after[j:])):
        raise NoMatch("how it splits and joins axes is not known")


def _block(trace: Trace, node: gs.Node, axes: Sequence[Array | None], before: Dims, after: Dims) -> list[Array | None]:
    """Labels of one block of axes after it is reshaped."""
    varying = {axis: labels for axis, labels in enumerate(axes) if labels is not None}
    none: list[Array | None] = [None] * len(after)
    if not varying:
        return none
    what = f"{node.op} `{edit.label(node)}`"
    old, new = ([axis for axis, size in enumerate(dims) if size != 1] for dims in (before, after))
    if len(old) == len(new) == 1 and list(varying) == old:
        return [varying[old[0]] if axis == new[0] else None for axis in range(len(after))]
    known_before = [size for size in before if isinstance(size, int)]
    known_after = [size for size in after if isinstance(size, int)]
    free = {axis: labels for axis, labels in varying.items() if not trace.labels.is_pinned(labels)}
    if len(free) == 1 and len(known_before) == len(before) and len(known_after) == len(after):
        ((axis, labels),) = free.items()
        if prod(known_before) > _LARGEST or 0 in known_before:
            trace.labels.pin(labels, f"{what} reshapes more than can be followed")
            return none
        return trace.spread(labels, known_before, axis, known_after)
    reason = f"{what} joins it with another axis"
    for labels in free.values():
        trace.labels.pin(labels, reason)
    passed = trace.labels.reason(int(next(iter(varying.values()))[0])) or reason
    return [trace.pinned(size, passed) if isinstance(size, int) and size > 1 else None for size in after]


def concat(trace: Trace, node: gs.Node) -> None:
    """Labels one after the other; along the other axes the operands have one."""
    operands = [tensor for tensor in node.inputs if tensor.name]
    rank = len(trace.dims(operands[0]))
    axis = int(edit.attr(node, "axis", 1)) % rank
    what = f"Concat `{edit.label(node)}`"
    result: list[Array | None] = []
    for at in range(rank):
        lines = [trace.of(tensor)[at] for tensor in operands]
        if at != axis:
            line = lines[0]
            for other in lines[1:]:
                line = trace.meet(line, other, f"{what} joins it with what is fixed")
            result.append(line if all(labels is not None for labels in lines) else None)
            continue
        counts = [trace.dims(tensor)[at] for tensor in operands]
        if all(labels is None for labels in lines) or not all(isinstance(count, int) for count in counts):
            for labels in lines:
                trace.labels.pin(labels, f"{what} joins it with what has an open size")
            result.append(None)
            continue
        parts = [
            trace.pinned(count, f"{what} joins it with other channels") if labels is None else labels
            for labels, count in zip(lines, counts, strict=True)
            if isinstance(count, int)
        ]
        result.append(np.concatenate(parts))
    trace.note(node.outputs[0], result)


def split(trace: Trace, node: gs.Node) -> None:
    """Labels in parts."""
    axes = trace.of(node.inputs[0])
    trace.control(edit.inp(node, 1))
    axis = int(edit.attr(node, "axis", 0)) % len(axes)
    line, start = axes[axis], 0
    for tensor in node.outputs:
        if not tensor.name:
            raise NoMatch("a part of it has no name")
        part = line
        if line is not None:
            size = trace.dims(tensor)[axis]
            if not isinstance(size, int):
                raise NoMatch("the sizes of its parts are not known")
            part, start = line[start : start + size], start + size
        trace.note(tensor, [*axes[:axis], part, *axes[axis + 1 :]])
    if line is not None and start != len(line):
        raise NoMatch("the sizes of its parts are not known")


def slice_(trace: Trace, node: gs.Node) -> None:
    """The labels of what is cut out."""
    x = node.inputs[0]
    axes = list(trace.of(x))
    starts, ends = ints(trace, node, "starts", 1), ints(trace, node, "ends", 2)
    named, steps = ints(trace, node, "axes", 3), ints(trace, node, "steps", 4)
    if named is None and edit.inp(node, 3) is None:
        named = None if starts is None else list(range(len(starts)))
    if named is None:
        raise NoMatch("what it cuts is not constant")
    picked: dict[int, Array] = {}
    for at, axis in enumerate(axis % len(axes) for axis in named):
        labels = axes[axis]
        if labels is None:
            continue
        step = 1 if edit.inp(node, 4) is None else None if steps is None else steps[at]
        if starts is None or ends is None or not step:
            trace.labels.pin(labels, f"Slice `{edit.label(node)}` cuts it where is not known")
            axes[axis] = None
            continue
        places = np.arange(len(labels))[starts[at] : ends[at] : step]
        axes[axis] = labels[places]
        picked[axis] = places
    trace.picked[node.outputs[0].name] = picked
    trace.note(node.outputs[0], axes)


def gather(trace: Trace, node: gs.Node) -> None:
    """The labels of what is picked by constant places; a single place, whose axis goes, is pinned."""
    axes = list(trace.of(node.inputs[0]))
    axis = int(edit.attr(node, "axis", 0)) % len(axes)
    labels, indices = axes[axis], node.inputs[1]
    rank = len(trace.dims(indices))
    if not isinstance(indices, gs.Constant):
        trace.control(indices)
    middle: list[Array | None] = [None] * rank
    if labels is not None:
        known = trace.numbers(indices)
        what = f"Gather `{edit.label(node)}`"
        if known is None or any(place is None for place in known):
            trace.labels.pin(labels, f"{what} picks by what is computed")
        else:
            places = np.asarray(known, dtype=np.int64) % len(labels)
            if rank == 1:
                middle = [labels[places]]
                trace.picked[node.outputs[0].name] = {axis: places}
            else:
                trace.labels.pin(labels[places] if rank == 0 else labels, f"{what} picks it alone")
                trace.picked[node.outputs[0].name] = {axis: places}
    trace.note(node.outputs[0], [*axes[:axis], *middle, *axes[axis + 1 :]])


def pad(trace: Trace, node: gs.Node) -> None:
    """What is added along channels has labels of its own: it goes where what it is added to goes."""
    axes = list(trace.of(node.inputs[0]))
    rank = len(axes)
    pads = ints(trace, node, "pads", 1)
    listed = ints(trace, node, "axes", 3) if edit.inp(node, 3) is not None else list(range(rank))
    if pads is None or listed is None or len(pads) != 2 * len(listed):
        raise NoMatch("how much it adds is not constant")
    is_constant = edit.attr(node, "mode", "constant") in ("constant", b"constant")
    for at, axis in enumerate(axis % rank for axis in listed):
        before, after = pads[at], pads[at + len(listed)]
        labels = axes[axis]
        if labels is None or not (before or after):
            continue
        if before < 0 or after < 0 or not is_constant:
            trace.labels.pin(labels, f"Pad `{edit.label(node)}` cuts or mirrors it")
            axes[axis] = None
            continue
        axes[axis] = np.concatenate([trace.labels.fresh(before), labels, trace.labels.fresh(after)])
    trace.note(node.outputs[0], axes)


def expand(trace: Trace, node: gs.Node) -> None:
    """Expand and ConstantOfShape: an axis that is made has labels of its own."""
    y = node.outputs[0]
    after = trace.dims(y)
    place = 1 if edit.op(node) == "Expand" else 0
    trace.control(edit.inp(node, place))
    target = trace.numbers(edit.inp(node, place))
    source = trace.of(node.inputs[0]) if place else ()
    result: list[Array | None] = []
    for axis, size in enumerate(after):
        at = axis - len(after) + len(source)
        labels = source[at] if at >= 0 else None
        entry = axis - len(after) + len(target or ())
        known = target is not None and (entry < 0 or target[entry] is not None)
        is_new = at < 0 or trace.dims(node.inputs[0])[at] == 1
        if labels is not None and (not known or (is_new and size != 1)):
            trace.labels.pin(labels, f"{node.op} `{edit.label(node)}` repeats it")
            labels = None
        if labels is None and is_new and isinstance(size, int) and size > 1 and known and entry >= 0:
            labels = trace.labels.fresh(size)
        result.append(labels)
    trace.note(y, result)


def tile(trace: Trace, node: gs.Node) -> None:
    """Labels several times over."""
    repeats = ints(trace, node, "repeats", 1)
    if repeats is None:
        raise NoMatch("how often it repeats is not constant")
    axes = trace.of(node.inputs[0])
    trace.note(
        node.outputs[0],
        [None if labels is None else np.tile(labels, count) for labels, count in zip(axes, repeats, strict=True)],
    )


def blocks_of_space(trace: Trace, node: gs.Node) -> None:
    """DepthToSpace makes a block of space of several channels, SpaceToDepth the reverse; these go together."""
    axes = trace.of(node.inputs[0])
    for labels in axes[2:]:
        trace.labels.pin(labels, f"{node.op} `{edit.label(node)}` mixes it with channels")
    block, labels = int(edit.attr(node, "blocksize", 1)), axes[1]
    made: Array | None = None
    if labels is not None and edit.op(node) == "SpaceToDepth":
        made = np.tile(labels, block * block)
    elif labels is not None and edit.attr(node, "mode", "DCR") in ("CRD", b"CRD"):
        made = trace.labels.join_rows(labels.reshape(-1, block * block).T)
    elif labels is not None:
        made = trace.labels.join_rows(labels.reshape(block * block, -1))
    trace.note(node.outputs[0], [axes[0], made, None, None])
