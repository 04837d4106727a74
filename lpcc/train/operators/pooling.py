"""Pools over windows and over whole channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always
from lpcc.train.operators.windows import Windows, interleaved

_MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


def max_pool(call: Call) -> Kernel:
    """The greatest element of each window; padding is never chosen. Second output: the place of each in the input."""
    windows, kernel = _pool(call)
    rank = len(kernel)
    pool, strides, dilations = _MAXIMA[rank], windows.stride(rank), windows.dilation(rank)
    with_indices = call.outputs > 1
    columns_first = bool(call.integer("storage_order", 0))
    pads = windows.padding([0] * rank, kernel) if not windows.depends_on_size() else None
    plain = pads is not None and _torch_pads(pads, kernel)

    def run(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return run(x.to(torch.float64)).to(x.dtype)  # torch pools reals only
        if plain and pads is not None:
            return pool(x, kernel, strides, pads[0], dilations, windows.ceil)
        padded, _ = pad(x)
        return pool(padded, kernel, strides, 0, dilations)

    def run_with_indices(x: Tensor) -> tuple[Tensor, Tensor]:
        if not x.is_floating_point():
            y, indices = run_with_indices(x.to(torch.float64))
            return y.to(x.dtype), indices
        padded, before = pad(x)
        y, places = pool(padded, kernel, strides, 0, dilations, return_indices=True)
        return y, _flat(places, padded.shape[2:], x, before, columns_first)

    def pad(x: Tensor) -> tuple[Tensor, list[int]]:
        """The input with all that its windows reach, and how much was put before it."""
        before, after = _reach(windows, kernel, x)
        if not any(before) and not any(after):
            return x, before
        return F.pad(x, interleaved(before, after), value=-math.inf), before

    return run_with_indices if with_indices else run


def _flat(places: Tensor, padded: Sequence[int], x: Tensor, before: Sequence[int], columns_first: bool) -> Tensor:
    """Places in planes that were padded, as places in the whole input."""
    size = list(x.shape[2:])
    at = []
    for axis in reversed(range(len(size))):
        at.append(places % padded[axis] - before[axis])
        places = places // padded[axis]
    if not columns_first:
        at.reverse()
        order = size
    else:
        order = size[::-1]
    found = at[0]
    for coordinate, length in zip(at[1:], order[1:], strict=True):
        found = found * length + coordinate
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * len(size))
    return found + planes * math.prod(size)


def average_pool(call: Call) -> Kernel:
    """The mean of each window: over its elements in the input, or under count_include_pad in the padded input."""
    windows, kernel = _pool(call)
    rank = len(kernel)
    pool, strides = _AVERAGES[rank], windows.stride(rank)
    count_pads = bool(call.integer("count_include_pad", 0))
    pads = windows.padding([0] * rank, kernel) if not windows.depends_on_size() else None
    plain = pads is not None and _torch_pads(pads, kernel) and set(windows.dilation(rank)) == {1}
    sizes: dict[tuple[int, ...], Tensor] = {}

    def run(x: Tensor) -> Tensor:
        if plain and pads is not None:
            return pool(x, kernel, strides, pads[0], windows.ceil, count_pads)
        return _sums(windows, kernel, x) / counts(x)

    def counts(x: Tensor) -> Tensor:
        """Elements of each window, (1, 1, ...)."""
        key = tuple(x.shape[2:])
        if key not in sizes:
            ones = torch.ones((1, 1, *key), dtype=torch.float64)
            if count_pads:
                before, after = windows.padding(key, kernel)
                within = F.pad(ones, interleaved(before, after), value=1.0)
                reach_before, reach_after = _reach(windows, kernel, ones)
                more = [reach - pad for reach, pad in zip(reach_after, after, strict=True)]
                more_before = [reach - pad for reach, pad in zip(reach_before, before, strict=True)]
                sizes[key] = _slide(F.pad(within, interleaved(more_before, more)), windows, kernel)
            else:
                sizes[key] = _sums(windows, kernel, ones)
        return sizes[key].to(x)

    return run


def lp_pool(call: Call) -> Kernel:
    """(sum of |x|^p over the window)^(1/p)."""
    windows, kernel = _pool(call)
    p = call.real("p", 2.0)

    def run(x: Tensor) -> Tensor:
        return _root(_sums(windows, kernel, x.abs() ** p), p)

    return run


def _root(sums: Tensor, p: float) -> Tensor:
    """The p-th root, whose gradient at zero is zero and not infinite."""
    safe = torch.where(sums > 0, sums, 1)
    return torch.where(sums > 0, safe ** (1 / p), 0)


def max_unpool(call: Call) -> Kernel:
    """Puts each element where MaxPool took it from; the rest is zero."""
    windows, kernel = _pool(call)
    rank = len(kernel)
    strides = windows.stride(rank)

    def run(x: Tensor, indices: Tensor, output_shape: Tensor = None) -> Tensor:
        before, after = windows.padding([0] * rank, kernel)
        size = [
            (n - 1) * s - b - a + k for n, s, b, a, k in zip(x.shape[2:], strides, before, after, kernel, strict=True)
        ]
        found = x.new_zeros(math.prod([*x.shape[:2], *size])).scatter(0, indices.to(x.device).flatten(), x.flatten())
        found = found.reshape(*x.shape[:2], *size)
        if output_shape is None:
            return found
        wanted = output_shape.tolist()
        more = [want - have for want, have in zip(wanted, found.shape, strict=True)]
        return F.pad(found, interleaved([0] * len(more), more))

    return run


def global_average_pool(x: Tensor) -> Tensor:
    """The mean of each channel."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """The greatest element of each channel."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def global_lp_pool(call: Call) -> Kernel:
    """(sum of |x|^p over the channel)^(1/p)."""
    p = call.real("p", 2.0)
    return lambda x: _root((x.abs() ** p).sum(tuple(range(2, x.dim())), keepdim=True), p)


def _pool(call: Call) -> tuple[Windows, list[int]]:
    windows = Windows.of(call)
    if windows.kernel is None:
        raise Unsupported("kernel_shape is missing")
    if len(windows.kernel) not in _MAXIMA:
        raise Unsupported(f"{len(windows.kernel)} spatial dimensions: torch has up to 3")
    return windows, windows.kernel


def _torch_pads(pads: tuple[list[int], list[int]], kernel: Sequence[int]) -> bool:
    """Whether torch's pools take this padding: the same on both sides, at most half a window."""
    return pads[0] == pads[1] and all(0 <= pad <= k // 2 for pad, k in zip(pads[0], kernel, strict=True))


def _reach(windows: Windows, kernel: Sequence[int], x: Tensor) -> tuple[list[int], list[int]]:
    """What must be put before and after the input so that its windows fill it; negative: what no window reads."""
    size = x.shape[2:]
    before, after = windows.padding(size, kernel)
    counts = windows.counts(size, before, after, kernel)
    rank = len(kernel)
    ends = [
        (count - 1) * s + (k - 1) * d + 1 - n - b
        for count, s, k, d, n, b in zip(
            counts, windows.stride(rank), kernel, windows.dilation(rank), size, before, strict=True
        )
    ]
    return before, ends


def _slide(x: Tensor, windows: Windows, kernel: Sequence[int]) -> Tensor:
    """Sums over all windows of an input that is padded already."""
    rank = len(kernel)
    planes = x.reshape(-1, 1, *x.shape[2:])
    ones = x.new_ones((1, 1, *kernel))
    y = _CONVOLUTIONS[rank](planes, ones, None, windows.stride(rank), 0, windows.dilation(rank))
    return y.reshape(*x.shape[:2], *y.shape[2:])


def _sums(windows: Windows, kernel: Sequence[int], x: Tensor) -> Tensor:
    """Sums over the windows, padding counted as zero."""
    return _slide(F.pad(x, interleaved(*_reach(windows, kernel, x))), windows, kernel)


STANDARD: Mapping[str, Lowering] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": always(global_average_pool),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": always(global_max_pool),
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
