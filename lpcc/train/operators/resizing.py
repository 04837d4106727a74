"""Resize and Upsample: an axis of the output is a weighted sum of taps on that axis of the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported

_F = np.float32  # the coordinates are computed in single precision, as runtimes do: it decides which pixel is nearest
_HALF = 1e-6  # so near to the middle of two pixels counts as the middle: as onnxruntime has it
_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}
_TRANSFORMS = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"),
    *("align_corners", "asymmetric", "tf_crop_and_resize", "tf_half_pixel_for_nn"),
)
_ROUNDS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_TORCH_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class Axis:
    """What happens to one axis: `size` elements become `to`; start and end: of the region, in parts of the axis."""

    size: int
    to: int
    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Sampling:
    """How the elements of the input that make up one of the output are found."""

    mode: str = "nearest"
    transform: str = "asymmetric"
    rounding: str = "floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    def places(self, axis: Axis) -> np.ndarray[Any, Any]:
        """Where on the input the elements of the output lie, in elements."""
        x = np.arange(axis.to, dtype=_F)
        n, to, scale = _F(axis.size), _F(axis.to), _F(axis.scale)
        if self.transform == "align_corners":
            return x * (n - 1) / (to - 1) if axis.to > 1 else x * 0
        if self.transform == "asymmetric":
            return x / scale
        if self.transform == "tf_half_pixel_for_nn":
            return (x + _F(0.5)) / scale
        if self.transform == "tf_crop_and_resize":
            start, end = _F(axis.start), _F(axis.end)
            if axis.to > 1:
                return start * (n - 1) + x * (end - start) * (n - 1) / (to - 1)
            return x * 0 + _F(0.5) * (start + end) * (n - 1)
        if self.transform == "pytorch_half_pixel" and axis.to == 1:
            return x * 0
        found = (x + _F(0.5)) / scale - _F(0.5)
        if self.transform == "half_pixel_symmetric":
            found = found + n / 2 * (1 - to / (scale * n))
        return np.asarray(found, _F)

    def nearest(self, axis: Axis) -> np.ndarray[Any, Any]:
        """The one element of the input for each of the output."""
        places = self.places(axis).astype(np.float64)
        rounded = {"round_prefer_floor": np.ceil(places - 0.5 - _HALF), "floor": np.floor(places)}
        rounded |= {"round_prefer_ceil": np.floor(places + 0.5 + _HALF), "ceil": np.ceil(places)}
        return np.clip(rounded[self.rounding], 0, axis.size - 1).astype(np.int64)

    def matrix(self, axis: Axis) -> np.ndarray[Any, Any]:
        """The weights (to, size) of all elements of the input in each of the output."""
        places = self.places(axis).astype(np.float64)
        scale = min(axis.scale, 1.0) if self.antialias else 1.0
        reach = 2 if self.mode == "cubic" else 1
        first = int(np.floor(-reach / scale)) + 1
        offsets = np.arange(first, 2 - first)
        base = np.floor(places)
        taps = base[:, None] + offsets
        distances = np.abs(offsets - (places - base)[:, None]) * scale
        weights = self._cubic(distances) if self.mode == "cubic" else np.clip(1 - distances, 0, None)
        if self.antialias:
            weights /= weights.sum(1, keepdims=True)
        if self.exclude_outside:
            weights = np.where((taps < 0) | (taps >= axis.size), 0, weights)
            weights /= weights.sum(1, keepdims=True)
        found = np.zeros((axis.to, axis.size))
        rows = np.broadcast_to(np.arange(axis.to)[:, None], taps.shape)
        np.add.at(found, (rows, np.clip(taps, 0, axis.size - 1).astype(np.int64)), weights)
        return found

    def _cubic(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Keys, Cubic convolution interpolation for digital image processing (1981), with a free parameter."""
        a = self.cubic
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))


def resize(call: Call) -> Kernel:
    """A tensor in another size: nearest, linear or cubic interpolation along each axis.

    All ways to place the elements are known (half_pixel and its variants, align_corners, asymmetric, crops), antialias,
    exclude_outside, sizes with keep_aspect_ratio_policy and axes. Opset 10 is asymmetric.
    """
    if call.opset < 11:
        return _upsample(call, lambda x, scales: (x, None, scales))
    sampling = Sampling(
        _known(call.text("mode", "nearest"), _MODES, "mode"),
        _known(call.text("coordinate_transformation_mode", "half_pixel"), {t: t for t in _TRANSFORMS}, "transform"),
        _known(call.text("nearest_mode", "round_prefer_floor"), {r: r for r in _ROUNDS}, "nearest_mode"),
        call.real("cubic_coeff_a", -0.75),
        bool(call.integer("exclude_outside", 0)),
        bool(call.integer("antialias", 0)),
    )
    policy, stated = call.text("keep_aspect_ratio_policy", "stretch"), call.integers("axes")
    outside = call.real("extrapolation_value", 0.0)
    apply = _Resizer(sampling, outside)

    def kernel(x: Tensor, roi: Tensor = None, scales: Tensor = None, sizes: Tensor = None) -> Tensor:
        which = [axis % x.dim() for axis in stated] if stated is not None else list(range(x.dim()))
        lengths = [x.shape[axis] for axis in which]
        if sizes is not None and sizes.numel():
            to, factors = _sized(lengths, sizes.tolist(), policy)
        elif scales is not None and scales.numel():
            factors = [float(_F(scale)) for scale in scales.tolist()]
            to = [int(np.floor(_F(scale) * _F(n))) for scale, n in zip(factors, lengths, strict=True)]
        else:
            raise Unsupported("neither sizes nor scales are given")
        region = [0.0] * len(which) + [1.0] * len(which) if roi is None or not roi.numel() else roi.tolist()
        half = len(which)
        axes = {axis: Axis(lengths[i], to[i], factors[i], region[i], region[half + i]) for i, axis in enumerate(which)}
        return apply(x, axes)

    return kernel


def upsample(call: Call) -> Kernel:
    """Resize as it was: nearest (below) or linear, asymmetric; before opset 9 the scales are an attribute."""
    if call.opset < 9:
        stated = call.reals("scales") or []
        return _upsample(call, lambda x: (x, stated, None))
    return _upsample(call, lambda x, scales: (x, None, scales))


def _upsample(call: Call, arguments: Any) -> Kernel:
    mode = _known(call.text("mode", "nearest"), _MODES, "mode")
    apply = _Resizer(Sampling(mode), 0.0)

    def kernel(*inputs: Tensor) -> Tensor:
        x, stated, scales = arguments(*inputs)
        factors = stated if scales is None else scales.tolist()
        axes = {
            axis: Axis(n, int(np.floor(_F(scale) * _F(n))), float(_F(scale)))
            for axis, (n, scale) in enumerate(zip(x.shape, factors, strict=True))
        }
        return apply(x, axes)

    return kernel


def _known(value: str, table: Mapping[str, str], what: str) -> str:
    if value not in table:
        raise Unsupported(f"{what}={value} is not known")
    return table[value]


def _sized(lengths: list[int], sizes: list[int], policy: str) -> tuple[list[int], list[float]]:
    """The new lengths and the factors of axes for which sizes are given."""
    factors = [float(_F(size) / _F(n)) for size, n in zip(sizes, lengths, strict=True)]
    if policy == "stretch":
        return sizes, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    to = [int(np.floor(_F(factor) * _F(n) + _F(0.5))) for n in lengths]
    return to, [factor] * len(lengths)


class _Resizer:
    """Applies a sampling to a tensor, axis by axis; keeps the taps of the sizes that it has seen."""

    def __init__(self, sampling: Sampling, outside: float):
        self.sampling = sampling
        self.outside = outside
        self.kept: dict[Any, Tensor] = {}

    def __call__(self, x: Tensor, axes: Mapping[int, Axis]) -> Tensor:
        crops = self.sampling.transform == "tf_crop_and_resize"
        changed = {at: axis for at, axis in axes.items() if crops or axis.size != axis.to or axis.scale != 1.0}
        if not changed:
            return x
        mode = self._torch_mode(x, changed)
        if mode:
            align = self.sampling.transform == "align_corners"
            return F.interpolate(x, [axes[at].to if at in axes else n for at, n in enumerate(x.shape)][2:], mode=mode,
                                 align_corners=align)  # fmt: skip
        for at, axis in changed.items():
            x = self._along(x, at, axis)
        return self._beyond(x, changed) if crops else x

    def _torch_mode(self, x: Tensor, axes: Mapping[int, Axis]) -> str:
        """The mode of torch's own interpolation that computes the same; empty where none does."""
        s = self.sampling
        if s.antialias or s.exclude_outside or not x.is_floating_point() or min(axes) < 2:
            return ""
        if any(abs(axis.scale * axis.size - axis.to) > 1e-4 for axis in axes.values()):
            return ""
        placed = s.transform in ("half_pixel", "align_corners") or (
            s.transform == "pytorch_half_pixel" and all(axis.to > 1 for axis in axes.values())
        )
        if placed and s.mode == "linear":
            return _TORCH_LINEAR.get(x.dim(), "")
        return "bicubic" if placed and s.mode == "cubic" and s.cubic == -0.75 and x.dim() == 4 else ""

    def _along(self, x: Tensor, at: int, axis: Axis) -> Tensor:
        """One axis resized."""
        key = (axis, x.device, x.dtype)
        if self.sampling.mode == "nearest":
            factor = axis.to // axis.size if axis.size else 0
            if key not in self.kept:
                nearest = self.sampling.nearest(axis)
                whole = factor * axis.size == axis.to and np.array_equal(nearest, np.arange(axis.to) // max(factor, 1))
                self.kept[key] = None if whole else torch.from_numpy(nearest).to(x.device)
            places = self.kept[key]
            if places is not None:
                return x.index_select(at, places)
            y = x.unsqueeze(at + 1).expand(*x.shape[: at + 1], factor, *x.shape[at + 1 :])  # copied once, at the end
            return y.flatten(at, at + 1)
        if not x.is_floating_point():
            return self._along(x.to(torch.float64), at, axis).to(x.dtype)
        if key not in self.kept:
            self.kept[key] = torch.from_numpy(self.sampling.matrix(axis)).to(x)
        weights = self.kept[key]
        if at == x.dim() - 1:
            return torch.matmul(x, weights.t())
        return torch.matmul(weights, x.flatten(at + 1)).reshape(*x.shape[:at], axis.to, *x.shape[at + 1 :])

    def _beyond(self, x: Tensor, axes: Mapping[int, Axis]) -> Tensor:
        """The value of what is outside the input where it is outside."""
        for at, axis in axes.items():
            places = self.sampling.places(axis)
            out = (places < 0) | (places > axis.size - 1)
            if out.any():
                mask = torch.from_numpy(out).to(x.device).reshape(-1, *[1] * (x.dim() - 1 - at))
                x = torch.where(mask, self.outside, x)
        return x


STANDARD: Mapping[str, Lowering] = {"Resize": resize, "Upsample": upsample}
