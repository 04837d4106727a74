"""Operators that change the shape of a tensor or the order of its elements."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always
from lpcc.train.operators.windows import interleaved


def reshape(call: Call) -> Kernel:
    """The same elements in another shape; -1: what is left; 0: as in the input (under allowzero: zero)."""
    allow_zero = bool(call.integer("allowzero", 0))

    def kernel(x: Tensor, sizes: Tensor) -> Tensor:
        wanted = sizes.tolist()
        if not allow_zero and 0 in wanted:
            wanted = [size if size else x.shape[axis] for axis, size in enumerate(wanted)]
        return x.reshape(wanted)

    return kernel


def flatten(call: Call) -> Kernel:
    """A matrix: the axes before `axis` are its rows, the others its columns."""
    axis = call.integer("axis", 1)

    def kernel(x: Tensor) -> Tensor:
        at = axis if axis >= 0 else axis + x.dim()
        return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))

    return kernel


def transpose(call: Call) -> Kernel:
    """The axes in another order; reversed where none is given."""
    order = call.integers("perm")
    if order is None:
        return lambda x: x.permute(*range(x.dim() - 1, -1, -1)) if x.dim() else x
    return lambda x: x.permute(order)


def concat(call: Call) -> Kernel:
    """Tensors one after the other along an axis."""
    axis = call.integer("axis", 1)

    def kernel(*tensors: Tensor) -> Tensor:
        if any(tensor.device != tensors[0].device for tensor in tensors):  # numbers computed from shapes are on the CPU
            device = next(tensor.device for tensor in tensors if tensor.device.type != "cpu")
            return torch.cat([tensor.to(device) for tensor in tensors], axis)
        return torch.cat(tensors, axis)

    return kernel


def split(call: Call) -> Kernel:
    """Parts of a tensor along an axis: of the given sizes, or as equal as can be."""
    axis, stated = call.integer("axis", 0), call.integers("split")
    parts = call.integer("num_outputs", call.outputs)

    def kernel(x: Tensor, sizes: Tensor = None) -> tuple[Tensor, ...]:
        if sizes is not None:
            return tuple(x.split(sizes.tolist(), axis))
        if stated is not None:
            return tuple(x.split(stated, axis))
        length = x.shape[axis]
        part = -(-length // parts)
        return tuple(x.split([max(min(part, length - part * index), 0) for index in range(parts)], axis))

    return kernel


def slice_(call: Call) -> Kernel:
    """Elements from starts to ends along axes, in steps that may go backwards."""
    if call.opset < 10:
        starts, ends = call.integers("starts") or [], call.integers("ends") or []
        axes = call.integers("axes") or list(range(len(starts)))
        steps = [1] * len(starts)
        return lambda x: _cut(x, starts, ends, axes, steps)

    def kernel(x: Tensor, start: Tensor, end: Tensor, axis: Tensor = None, step: Tensor = None) -> Tensor:
        first = start.tolist()
        return _cut(
            x,
            first,
            end.tolist(),
            list(range(len(first))) if axis is None else axis.tolist(),
            [1] * len(first) if step is None else step.tolist(),
        )

    return kernel


def _cut(x: Tensor, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Tensor:
    parts = [slice(None)] * x.dim()
    flips = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        part = slice(start, end, step)
        if step < 0:  # torch does not step backwards: the same elements forwards, then turned round
            size = x.shape[axis]
            first = min(max(start + size if start < 0 else start, 0), size - 1)  # ONNX's, and not Python's
            last = min(max(end + size if end < 0 else end, -1), size - 1)
            places = range(first, last, step)
            part = slice(places[-1], places[0] + 1, -step) if places else slice(0, 0)
            flips.append(axis)
        parts[axis] = part
    y = x[tuple(parts)]
    return y.flip(flips) if flips else y


_FILL = {"reflect": "reflect", "edge": "replicate"}


def pad(call: Call) -> Kernel:
    """More elements (or fewer, where negative) before and after each axis.

    mode constant: of a value; edge: the outermost; reflect: mirrored; wrap: from the other end.
    """
    mode = call.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise Unsupported(f"mode={mode} is not known")
    if call.opset < 11:
        stated, value = call.integers("pads") or [], call.real("value", 0.0)
        return lambda x: _pad(x, stated, list(range(x.dim())), mode, value)

    def kernel(x: Tensor, pads: Tensor, value: Tensor = None, axes: Tensor = None) -> Tensor:
        which = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes.tolist()]
        return _pad(x, pads.tolist(), which, mode, 0 if value is None else value.item())

    return kernel


def _pad(x: Tensor, pads: list[int], axes: list[int], mode: str, value: float) -> Tensor:
    before, after = [0] * x.dim(), [0] * x.dim()
    for index, axis in enumerate(axes):
        before[axis], after[axis] = pads[index], pads[len(axes) + index]
    if not any(before) and not any(after):
        return x
    if mode == "constant":
        return F.pad(x, interleaved(before, after), value=value)
    image = x.dim() == 4 and x.is_floating_point() and not any(before[:2]) and not any(after[:2])
    once = mode == "edge" or all(max(before[axis], after[axis]) < x.shape[axis] for axis in range(x.dim()))
    if image and once and mode in _FILL and min(before + after) >= 0:
        return F.pad(x, interleaved(before[2:], after[2:]), mode=_FILL[mode])
    for axis in range(x.dim()):
        if before[axis] or after[axis]:
            x = x.index_select(axis, _places(x.shape[axis], before[axis], after[axis], mode).to(x.device))
    return x


def _places(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which elements of an axis the padded axis has."""
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else torch.zeros_like(places)


def expand(x: Tensor, sizes: Tensor) -> Tensor:
    """The input broadcast with a shape, both ways."""
    wanted = sizes.tolist()
    return x.expand(torch.broadcast_shapes(x.shape, wanted))


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    """The input repeated along each axis."""
    return x.repeat(repeats.tolist())


def squeeze(call: Call) -> Kernel:
    """Without axes of one element: of those given, or all."""
    stated = call.integers("axes")

    def kernel(x: Tensor, axes: Tensor = None) -> Tensor:
        which = stated if axes is None else axes.reshape(-1).tolist()
        return x.squeeze() if which is None else x.squeeze(tuple(which))

    return kernel


def unsqueeze(call: Call) -> Kernel:
    """With axes of one element at the given places of the result."""
    stated = call.integers("axes")

    def kernel(x: Tensor, axes: Tensor = None) -> Tensor:
        which = stated or [] if axes is None else axes.reshape(-1).tolist()
        rank = x.dim() + len(which)
        for axis in sorted(axis % rank for axis in which):
            x = x.unsqueeze(axis)
        return x

    return kernel


def depth_to_space(call: Call) -> Kernel:
    """Channels to blocks of pixels. mode DCR: the block is the outer part of the channel's number, CRD: the inner."""
    b, inner = call.integer("blocksize", 1), call.text("mode", "DCR") == "CRD"

    def kernel(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if inner:
            return F.pixel_shuffle(x, b) if n * c * h * w else x.reshape(n, c // (b * b), h * b, w * b)
        y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(n, c // (b * b), h * b, w * b)

    return kernel


def space_to_depth(call: Call) -> Kernel:
    """Blocks of pixels to channels; modes as in `depth_to_space`."""
    b, inner = call.integer("blocksize", 1), call.text("mode", "DCR") == "CRD"

    def kernel(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // b, b, w // b, b).permute(*((0, 1, 3, 5, 2, 4) if inner else (0, 3, 5, 1, 2, 4)))
        return y.reshape(n, c * b * b, h // b, w // b)

    return kernel


def trilu(call: Call) -> Kernel:
    """The upper or lower triangle of the last two axes, from diagonal k; the rest is zero."""
    upper = bool(call.integer("upper", 1))

    def kernel(x: Tensor, k: Tensor = None) -> Tensor:
        diagonal = 0 if k is None else int(k.item())
        return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)

    return kernel


def reverse_sequence(call: Call) -> Kernel:
    """The first elements of each sample in the opposite order, as many as its length."""
    batch, time = call.integer("batch_axis", 1), call.integer("time_axis", 0)

    def kernel(x: Tensor, lengths: Tensor) -> Tensor:
        y = x.movedim((batch, time), (0, 1))
        steps = torch.arange(y.shape[1], device=x.device)
        ends = lengths.to(x.device).unsqueeze(1)
        places = torch.where(steps < ends, ends - 1 - steps, steps)
        samples = torch.arange(y.shape[0], device=x.device).unsqueeze(1)
        return y[samples, places].movedim((0, 1), (batch, time))

    return kernel


def center_crop_pad(call: Call) -> Kernel:
    """The middle of each axis in the wanted size; zeros around it where it is shorter."""
    stated = call.integers("axes")

    def kernel(x: Tensor, sizes: Tensor) -> Tensor:
        axes = list(range(x.dim())) if stated is None else [axis % x.dim() for axis in stated]
        before, after = [0] * x.dim(), [0] * x.dim()
        for axis, size in zip(axes, sizes.tolist(), strict=True):
            more = size - x.shape[axis]
            before[axis] = more // 2 if more > 0 else -(-more // 2)
            after[axis] = more - before[axis]
        return F.pad(x, interleaved(before, after))

    return kernel


def col2im(call: Call) -> Kernel:
    """Sums windows, which lie in columns, into the image that they were taken from."""
    dilations, pads, strides = (call.integers(name) for name in ("dilations", "pads", "strides"))

    def kernel(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        size, window = image.tolist(), block.tolist()
        rank = len(size)
        n, length = x.shape[0], math.prod(window)
        d, s, p = dilations or [1] * rank, strides or [1] * rank, pads or [0] * (2 * rank)
        padded = [size[axis] + p[axis] + p[rank + axis] for axis in range(rank)]
        place = torch.zeros(1, 1, dtype=torch.int64, device=x.device)
        for axis in range(rank):  # of each element of each window in the padded image, flattened
            count = (padded[axis] - d[axis] * (window[axis] - 1) - 1) // s[axis] + 1
            inner = torch.arange(window[axis], device=x.device) * d[axis]
            outer = torch.arange(count, device=x.device) * s[axis]
            here = inner.unsqueeze(1) + outer
            place = place.unsqueeze(1).unsqueeze(-1) * padded[axis] + here.unsqueeze(0).unsqueeze(2)
            place = place.reshape(place.shape[0] * place.shape[1], -1)
        y = x.new_zeros(n, x.shape[1] // length, math.prod(padded))
        y = y.index_add(2, place.flatten(), x.reshape(n, x.shape[1] // length, -1)).reshape(n, -1, *padded)
        return F.pad(y, interleaved([-b for b in p[:rank]], [-a for a in p[rank:]]))

    return kernel


def identity(x: Tensor) -> Tensor:
    """The input itself."""
    return x


STANDARD: Mapping[str, Lowering] = {
    "CenterCropPad": center_crop_pad,
    "Col2Im": col2im,
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": always(expand),
    "Flatten": flatten,
    "Identity": always(identity),
    "Pad": pad,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": always(tile),
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
