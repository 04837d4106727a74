"""Weights in the number formats of `lpcc.formats`, trained: rounded by the format itself, in each forward pass.

| format | what becomes of its scales | source |
|---|---|---|
| binary, XNOR | the mean magnitude of the weights at each step | Rastegari et al. 2016, algorithm 1 |
| ternary | threshold and scale are those of the weights at each step | Li et al. 2016, section 2.3 |
| ternary with two scales | trained, by the sum of the gradients of their weights | Zhu et al. 2017, equation 8 |
| DoReFa | a trained factor of each row, for a batch norm; the greatest tanh at each step | Zhou et al. 2016 |
| powers of two | trained, as Esser et al. 2020 do for integers, unless they are powers of two | Ding et al. 2017 |

The number of powers of two that each filter has stays what it is: the graph stores no others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from lpcc.formats.format import Codes, Format, Layout, Scales
from lpcc.formats.integer import DorefaScales, DorefaWeights
from lpcc.formats.powers import PowerOfTwo, PowerScales
from lpcc.formats.signs import TernaryScales, TwoScaleTernary
from lpcc.train.latents.latent import Array, Latent, Tensor
from lpcc.train.latents.scale import Scale
from lpcc.train.tensors import array_of, tensor_of

Constants = Callable[[Codes, Scales], dict[str, Array]]
"""From codes and scales to the constants that hold them."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """How a graph decodes weights: the format, which weights share a scale, and the constants of codes and scales."""

    kind: Format[Any]
    layout: Layout
    values: Array
    """What it decodes now."""
    constants: Constants
    fixed: Any = None
    """Of powers of two: the number of terms of each row, and the scales where they are not trained."""


class FormatWeight(Latent):
    """Weights that a number format rounds, with `Format.slope` for the derivative of rounding."""

    def __init__(self, name: str, decoder: Decoder, start: Array | None, scales: Sequence[Scale] = ()) -> None:
        """`start` are the weights before they were rounded, where these are known; `scales` are trained."""
        super().__init__()
        self.name, self._decoder = name, decoder
        self._scales = nn.ModuleList(scales)
        self.weight = nn.Parameter(tensor_of(self._first(start).astype(np.float32)))

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The float weight."""
        return {self.name: self.weight}

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """The trained scales."""
        return {name: share for scale in self._scales for name, share in scale.others.items()}

    def forward(self) -> Tensor:
        """The numbers that the codes stand for."""
        return _Rounded.apply(self._rounding, self.weight, *(scale() for scale in self._scales))

    def stored(self) -> dict[str, Array]:
        """Codes and scales."""
        values = array_of(self.weight, np.float32)
        found = self.fitted(values, self._current())
        return self._decoder.constants(self._decoder.kind.encode(values, found), found)

    @abstractmethod
    def fitted(self, values: Array, trained: Sequence[Array]) -> Scales:
        """The scales that these weights are rounded with; `trained` are the values of those that are."""

    def partials(self, values: Array, rounded: Array, slope: Array, found: Scales) -> list[Array]:  # noqa: ARG002
        """Derivative of each rounded weight by each trained scale."""
        return []

    def _first(self, start: Array | None) -> Array:
        """Weights that are rounded to what the graph has: those before rounding, wherever they are."""
        decoded = self._decoder.values
        if start is None:
            return decoded
        found = self.fitted(start, self._current())
        return np.where(self._decoder.kind.round(start, found) == decoded, start, decoded)

    def _current(self) -> list[Array]:
        with torch.no_grad():
            return [array_of(scale(), np.float32) for scale in self._scales]

    def _rounding(self, values: Array, trained: Sequence[Array]) -> tuple[Array, Array, list[Array]]:
        kind, found = self._decoder.kind, self.fitted(values, trained)
        rounded, slope = kind.round(values, found), kind.slope(values, found)
        return rounded, slope, self.partials(values, rounded, slope, found)


class FittedWeight(FormatWeight):
    """A format whose scales follow from the weights at every step: binary and ternary."""

    def fitted(self, values: Array, trained: Sequence[Array]) -> Scales:  # noqa: ARG002
        """`Format.fit`."""
        scales: Scales = self._decoder.kind.fit(values, self._decoder.layout)
        return scales

    def _first(self, start: Array | None) -> Array:
        """The weights before rounding if all of them are rounded to what the graph has, as their mean counts too."""
        found = super()._first(start)
        return found if start is None or np.array_equal(found, start) else self._decoder.values


class TwoScaleWeight(FormatWeight):
    """Ternary weights with a trained scale for either sign, each weight the nearest of the three numbers."""

    def fitted(self, values: Array, trained: Sequence[Array]) -> TernaryScales:  # noqa: ARG002
        """The trained scales, with thresholds halfway to them."""
        up, down = (scale.reshape(-1) for scale in trained)
        return TernaryScales(self._decoder.layout, up, down, up / 2, down / 2)

    def partials(self, values: Array, rounded: Array, slope: Array, found: Scales) -> list[Array]:  # noqa: ARG002
        """1 for the weights that have the positive scale, -1 for those that have the negative one."""
        return [(rounded > 0).astype(np.float32), -(rounded < 0).astype(np.float32)]


class PowerWeight(FormatWeight):
    """Sums of powers of two, as many in each row as the graph has constants for."""

    def fitted(self, values: Array, trained: Sequence[Array]) -> PowerScales:  # noqa: ARG002
        """The trained scale if there is one."""
        return replace(self._decoder.fixed, scale=trained[0].reshape(-1)) if trained else self._decoder.fixed

    def partials(self, values: Array, rounded: Array, slope: Array, found: Scales) -> list[Array]:
        """The sum of powers less the weight in units of the scale, where the latter is within reach."""
        if not len(self._scales):
            return []
        return [(rounded - slope * values) / found.spread(found.scale, values)]


class DorefaWeight(FormatWeight):
    """DoReFa's weights with a trained factor for each row."""

    def fitted(self, values: Array, trained: Sequence[Array]) -> DorefaScales:
        """The trained factors, with the greatest tanh of these weights."""
        scale = trained[0].reshape(-1)
        offset = np.full(len(scale), self._decoder.kind.ends[1] / 2, dtype=np.float32)
        peak = np.float32(np.abs(np.tanh(values)).max(initial=0.0) or 1.0)
        return DorefaScales(self._decoder.layout, scale, offset, peak)

    def partials(self, values: Array, rounded: Array, slope: Array, found: Scales) -> list[Array]:  # noqa: ARG002
        """The rounded weight in units of the scale."""
        return [rounded / found.spread(found.scale, values)]

    def _first(self, start: Array | None) -> Array:
        """As for others; what is known rounded alone is put through the inverse of the format's tanh."""
        decoded = self._decoder.values
        if start is not None:
            found = self.fitted(start, self._current())
            if np.array_equal(self._decoder.kind.round(start, found), decoded):
                return start
        (scale,) = self._current()
        units = decoded / (scale * self._decoder.kind.ends[1] / 2)  # from -1 to 1
        peak = min(np.tanh(np.abs(decoded).max(initial=0.0)), 0.99)
        return np.asarray(np.arctanh(units * peak))


def format_weight(name: str, decoder: Decoder, start: Array | None, scales: Sequence[Scale]) -> FormatWeight:
    """The latent of a decoder; `scales` are those of its constants that are trained."""
    families = ((PowerOfTwo, PowerWeight), (DorefaWeights, DorefaWeight), (TwoScaleTernary, TwoScaleWeight))
    family = next((family for kind, family in families if isinstance(decoder.kind, kind)), FittedWeight)
    return family(name, decoder, start, scales)


class _Rounded(torch.autograd.Function):
    """What a format makes of weights, with the slopes that it says."""

    @staticmethod
    def forward(ctx: Any, rounding: Callable[..., Any], weight: Tensor, *scales: Tensor) -> Tensor:
        """The rounded weights."""
        arrays = [tensor.detach().cpu().numpy() for tensor in (weight, *scales)]
        rounded, slope, partials = rounding(arrays[0], arrays[1:])
        found = [torch.from_numpy(np.ascontiguousarray(a)).to(weight.device) for a in (rounded, slope, *partials)]
        ctx.save_for_backward(*found[1:])
        ctx.shapes = [scale.shape for scale in scales]
        return found[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Its slope for the weights; the derivatives of `partials` for the scales."""
        slope, *partials = ctx.saved_tensors
        of_scales = [(grad * partial).sum_to_size(shape) for partial, shape in zip(partials, ctx.shapes, strict=True)]
        return None, grad * slope, *of_scales
