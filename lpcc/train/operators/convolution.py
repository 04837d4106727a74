"""Convolutions in one, two and three dimensions, and their transposes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported
from lpcc.train.operators.windows import Windows, interleaved

_CONVOLUTIONS = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}
_TRANSPOSES = {3: torch.conv_transpose1d, 4: torch.conv_transpose2d, 5: torch.conv_transpose3d}


def conv(call: Call) -> Kernel:
    """y[n, o] = b[o] + sum over c of w[o, c] * x[n, c] (cross-correlation), in groups of channels.

    Padding that is the same on both sides is torch's own; other padding is added before.
    """
    windows = Windows.of(call)
    groups = call.integer("group", 1)
    pads = windows.pads
    if windows.auto_pad == "VALID" or (windows.auto_pad == "NOTSET" and pads is None):
        known: list[int] | int | None = 0
    elif windows.auto_pad == "NOTSET" and pads and pads[: len(pads) // 2] == pads[len(pads) // 2 :]:
        known = pads[: len(pads) // 2]
    else:
        known = None
    strides, dilations = windows.strides or 1, windows.dilations or 1

    def straight(x: Tensor, w: Tensor, b: Tensor = None) -> Tensor:
        return _of_rank(_CONVOLUTIONS, w)(x, w, b, strides, known, dilations, groups)

    def padded(x: Tensor, w: Tensor, b: Tensor = None) -> Tensor:
        before, after = windows.padding(x.shape[2:], w.shape[2:])
        convolve = _of_rank(_CONVOLUTIONS, w)
        if before == after:
            return convolve(x, w, b, strides, before, dilations, groups)
        return convolve(F.pad(x, interleaved(before, after)), w, b, strides, 0, dilations, groups)

    return padded if known is None else straight


def conv_transpose(call: Call) -> Kernel:
    """The transpose of `conv` as a linear map: every input element spreads the filter over the output.

    The whole result has s(n-1) + d(k-1) + 1 elements along an axis; pads cut it, output_padding and output_shape say
    how much of it remains.
    """
    windows = Windows.of(call)
    groups = call.integer("group", 1)
    output_shape, output_padding = call.integers("output_shape") or None, call.integers("output_padding") or None

    def kernel(x: Tensor, w: Tensor, b: Tensor = None) -> Tensor:
        convolve = _of_rank(_TRANSPOSES, w)
        rank = w.dim() - 2
        strides, dilations = windows.stride(rank), windows.dilation(rank)
        before, rest, whole = [], [], []
        for axis in range(rank):
            s, d = strides[axis], dilations[axis]
            full = s * (x.shape[2 + axis] - 1) + d * (w.shape[2 + axis] - 1) + 1
            begin, size = _place(axis, rank, full, x.shape[2 + axis] * s)
            before.append(begin)
            rest.append(size - (full - 2 * begin))
            whole.append(size - (full - begin))
        fits = all(
            begin >= 0 and 0 <= more < max(s, d)
            for begin, more, s, d in zip(before, rest, strides, dilations, strict=True)
        )
        if fits:
            return convolve(x, w, b, strides, before, rest, groups, dilations)
        y = convolve(x, w, None, strides, 0, 0, groups, dilations)
        y = F.pad(y, interleaved([-begin for begin in before], whole))
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    def _place(axis: int, rank: int, full: int, same: int) -> tuple[int, int]:
        """First element of the whole result that is in the output, and the size of the output."""
        extra = output_padding[axis] if output_padding else 0
        if output_shape is not None or windows.depends_on_size():
            size = output_shape[axis - rank] if output_shape is not None else same
            total = full + extra - size
            small = total // 2 if total >= 0 else 0
            total = max(total, 0)
            return (small if windows.auto_pad == "SAME_UPPER" else total - small), size
        pads = windows.pads if windows.pads and windows.auto_pad == "NOTSET" else [0] * (2 * rank)
        return pads[axis], full - pads[axis] - pads[rank + axis] + extra

    return kernel


def conv_integer(call: Call) -> Kernel:
    """Conv of (x - its zero point) and (w - its zero point), in integers.

    Integers that are held as reals, as fake quantisation has them, stay reals, so that gradients pass.
    """
    convolve = conv(call)

    def kernel(x: Tensor, w: Tensor, x_zero: Tensor = None, w_zero: Tensor = None) -> Tensor:
        held = x.is_floating_point() or w.is_floating_point()
        to = torch.promote_types(x.dtype, w.dtype) if held else torch.float64  # exact up to 2^53
        x, w = x.to(to), w.to(to)
        if x_zero is not None:
            x = x - x_zero.to(to)
        if w_zero is not None:
            w = w - w_zero.to(to).reshape(-1, *[1] * (w.dim() - 1 if w_zero.dim() else 0))
        y = convolve(x, w)
        return y if held else y.to(torch.int32)

    return kernel


def _of_rank(functions: Mapping[int, Kernel], w: Tensor) -> Kernel:
    try:
        return functions[w.dim()]
    except KeyError:
        raise Unsupported(f"{w.dim() - 2} spatial dimensions: torch has up to 3") from None


STANDARD: Mapping[str, Lowering] = {"Conv": conv, "ConvInteger": conv_integer, "ConvTranspose": conv_transpose}
