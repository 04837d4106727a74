"""Operators that read an image between its pixels, and regions of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported
from lpcc.train.operators.windows import Windows

_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


def grid_sample(call: Call) -> Kernel:
    """The image at the places of a grid, -1 and 1 being its borders."""
    mode, padding = call.text("mode", "bilinear"), call.text("padding_mode", "zeros")
    align = bool(call.integer("align_corners", 0))
    if mode not in _MODES or padding not in ("zeros", "border", "reflection"):
        raise Unsupported(f"mode={mode}, padding_mode={padding} is not known")

    def kernel(x: Tensor, grid: Tensor) -> Tensor:
        if x.dim() == 5 and _MODES[mode] == "bicubic":
            raise Unsupported("cubic sampling of volumes")
        return F.grid_sample(x, grid.to(x.dtype), _MODES[mode], padding, align)

    return kernel


def affine_grid(call: Call) -> Kernel:
    """The grid that samples an image through an affine map."""
    align = bool(call.integer("align_corners", 0))
    return lambda theta, size: F.affine_grid(theta, size.tolist(), align)


def _between(x: Tensor, batch: Tensor, rows: Tensor, columns: Tensor, *, whole: bool) -> list[tuple[Tensor, Tensor]]:
    """The four pixels around each place and their weights: [(weight, (places..., channels)), ...].

    batch, rows and columns broadcast. Outside the image pixels count as zero; under `whole` places up to one pixel
    outside are drawn to the border.
    """
    height, width = x.shape[2:]
    if whole:
        inside = (rows >= -1) & (rows <= height) & (columns >= -1) & (columns <= width)
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    top, left = rows.detach().floor(), columns.detach().floor()
    pixels = x.permute(0, 2, 3, 1)
    found = []
    for down in (0, 1):
        for right in (0, 1):
            r, c = top + down, left + right
            weight = (1 - (rows - r).abs()) * (1 - (columns - c).abs())
            weight = weight * (inside if whole else (r >= 0) & (r < height) & (c >= 0) & (c < width))
            at = (batch, r.clamp(0, height - 1).long(), c.clamp(0, width - 1).long())
            found.append((weight, pixels[at]))
    return found


def roi_align(call: Call) -> Kernel:
    """He et al., Mask R-CNN (ICCV 2017): mean, or greatest, of places evenly spread over each cell of each region."""
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    ratio, scale = call.integer("sampling_ratio", 0), call.real("spatial_scale", 1.0)
    greatest = call.text("mode", "avg") == "max"
    default = "output_half_pixel" if call.opset < 16 else "half_pixel"
    half = call.text("coordinate_transformation_mode", default) == "half_pixel"

    def kernel(x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
        corners = rois * scale - (0.5 if half else 0.0)
        sizes = corners[:, 2:] - corners[:, :2]
        if not half:
            sizes = sizes.clamp(min=1.0)
        cells = sizes / sizes.new_tensor([width, height])
        counts = [(ratio, ratio)] * len(rois) if ratio > 0 else [tuple(c) for c in cells.ceil().long().tolist()]
        y = x.new_zeros(len(rois), x.shape[1], height, width)
        for across, down in sorted(set(counts)):
            if across < 1 or down < 1:
                continue
            chosen = torch.tensor([i for i, count in enumerate(counts) if count == (across, down)], device=x.device)
            places = []
            for side, (n, count) in enumerate(((width, across), (height, down))):
                steps = (torch.arange(n * count, device=x.device).to(x.dtype) + 0.5) / count
                places.append(corners[chosen, side].unsqueeze(1) + steps * cells[chosen, side].unsqueeze(1))
            at = batch.to(device=x.device, dtype=torch.int64)[chosen].reshape(-1, 1, 1)
            around = _between(x, at, places[1].unsqueeze(2), places[0].unsqueeze(1), whole=True)
            y = y.index_copy(0, chosen, pooled(around, down, across))
        return y

    def pooled(around: list[tuple[Tensor, Tensor]], down: int, across: int) -> Tensor:
        """(regions, channels, height, width) of samples (regions, height * down, width * across, channels)."""
        weighted = [weight.unsqueeze(-1) * pixels for weight, pixels in around]
        samples = torch.stack(weighted).amax(0) if greatest else sum(weighted)
        cells = samples.reshape(len(samples), height, down, width, across, -1)
        return (cells.amax((2, 4)) if greatest else cells.mean((2, 4))).permute(0, 3, 1, 2)

    return kernel


def max_roi_pool(call: Call) -> Kernel:
    """Girshick, Fast R-CNN (ICCV 2015): the greatest element of each cell of each region, in whole pixels."""
    (height, width), scale = call.integers("pooled_shape") or (1, 1), call.real("spatial_scale", 1.0)

    def kernel(x: Tensor, rois: Tensor) -> Tensor:
        return torch.stack([region(x[int(roi[0])], roi[1:]) for roi in rois.tolist()])

    def region(image: Tensor, roi: list[float]) -> Tensor:
        left, top, right, bottom = (math.floor(edge * scale + 0.5) for edge in roi)
        rows = cells(top, max(bottom - top + 1, 1), height, image.shape[1])
        columns = cells(left, max(right - left + 1, 1), width, image.shape[2])
        empty = image.new_zeros(image.shape[0])
        found = [image[:, a:b, c:d].amax((1, 2)) if a < b and c < d else empty for a, b in rows for c, d in columns]
        return torch.stack(found, 1).reshape(-1, height, width)

    def cells(start: int, length: int, count: int, size: int) -> list[tuple[int, int]]:
        edges = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        return [(min(max(start + a, 0), size), min(max(start + b, 0), size)) for a, b in edges]

    return kernel


def deform_conv(call: Call) -> Kernel:
    """Zhu et al., Deformable ConvNets v2 (CVPR 2019): each tap of the filter reads at an offset of its own, masked."""
    windows = Windows.of(call)
    groups, offset_groups = call.integer("group", 1), call.integer("offset_group", 1)

    def kernel(x: Tensor, w: Tensor, offset: Tensor, b: Tensor = None, mask: Tensor = None) -> Tensor:
        if x.dim() != 4:
            raise Unsupported("deformable convolutions of other than images")
        n, channels = x.shape[:2]
        taps, out = w.shape[2:], offset.shape[2:]
        before, _ = windows.padding(x.shape[2:], taps)
        offset = offset.reshape(n * offset_groups, math.prod(taps), 2, *out)
        places = []
        for side in (0, 1):
            tap = torch.arange(taps[side], device=x.device) * windows.dilation(2)[side] - before[side]
            step = torch.arange(out[side], device=x.device) * windows.stride(2)[side]
            tap = tap.unsqueeze(1).expand(*taps) if side == 0 else tap.expand(*taps)
            step = step.unsqueeze(1) if side == 0 else step
            places.append(tap.reshape(-1, 1, 1) + step + offset[:, :, side])
        part = x.reshape(n * offset_groups, channels // offset_groups, *x.shape[2:])
        batch = torch.arange(len(part), device=x.device).reshape(-1, 1, 1, 1)
        around = _between(part, batch, *places, whole=False)
        samples = sum(weight.unsqueeze(-1) * pixels for weight, pixels in around)
        if mask is not None:
            samples = samples * mask.reshape(*samples.shape[:-1], 1)
        samples = samples.permute(0, 4, 1, 2, 3).reshape(n, groups, -1, math.prod(out))
        filters = w.reshape(groups, w.shape[0] // groups, -1)
        y = torch.matmul(filters, samples).reshape(n, -1, *out)
        return y if b is None else y + b.reshape(-1, 1, 1)

    return kernel


STANDARD: Mapping[str, Lowering] = {
    "AffineGrid": affine_grid,
    "DeformConv": deform_conv,
    "GridSample": grid_sample,
    "MaxRoiPool": max_roi_pool,
    "RoiAlign": roi_align,
}
