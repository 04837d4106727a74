"""A scale that is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from lpcc.formats.affine import SMALLEST
from lpcc.train.latents.latent import Array, Latent, Tensor
from lpcc.train.tensors import array_of, tensor_of

_LEAST = 2.0**-6
"""Share of what a scale was at the start below which it does not fall: it stays positive."""


class Scale(Latent):
    """A scale or an array of them, trained by Learned step size quantization (Esser et al., ICLR 2020).

    ``s = s_0 p`` with the parameter p, which starts at 1, within ``[floor, ceiling]``. The gradient of p is that of s
    times ``g / s_0``, with the paper's gradient scale ``g = 1 / sqrt(N Q)`` for N weights of a layer, or numbers of an
    activation of one sample, and the greatest integer Q (section 2.2). So a step of SGD moves s by what it does in the
    paper, and one of Adam, whose steps have the size of the learning rate, moves it by that share of itself, however
    small s is. At an end of the range there is no gradient that leads beyond it.

    The paper has one scale for a layer. Of several, as of the output channels of folded batch norms, which differ by
    orders of magnitude, the smallest would run away by ``1 / s_0``: they take ``g s_0 / m^2`` with the median m of all.

    A scale that is not trained has no parameter.
    """

    def __init__(
        self,
        names: Iterable[str],
        values: Array,
        numbers: float,
        greatest: float,
        *,
        trained: bool = True,
        floor: Array | float = 0.0,
        ceiling: Array | float = np.inf,
    ) -> None:
        """`names` are the constants that hold it; `values` float32 of their shape; `numbers` is N, `greatest` Q."""
        super().__init__()
        self.names = tuple(names)
        values = np.asarray(values, dtype=np.float32)
        least = np.minimum(np.maximum(np.maximum(values * _LEAST, floor), SMALLEST), values)
        for name, array in (("_start", values), ("_floor", least), ("_ceiling", np.maximum(ceiling, values))):
            self.register_buffer(name, tensor_of(array.astype(np.float32)), persistent=False)
        middle = np.median(values.astype(np.float64))
        factor = np.minimum(values, middle) / middle**2 / np.sqrt(max(numbers, 1.0) * max(greatest, 1.0))
        self.register_buffer("_factor", tensor_of(factor.astype(np.float32)), persistent=False)
        self.share = nn.Parameter(torch.ones(values.shape)) if trained else None

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """The parameter p, where there is one."""
        return {} if self.share is None else {self.names[0]: self.share}

    def forward(self) -> Tensor:
        """The scale, in the shape of its constants."""
        if self.share is None:
            return self._start
        return _Held.apply(self.share, self._start, self._floor, self._ceiling, self._factor)

    def stored(self) -> dict[str, Array]:
        """The same for all constants that hold it."""
        with torch.no_grad():
            values = array_of(self(), np.float32)
        return dict.fromkeys(self.names, values)


class Multiple(Latent):
    """A constant that is a fixed multiple of a scale: an end of the range of integers, as a number."""

    def __init__(self, name: str, scale: Scale, factor: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.scale, self.factor, self.shape = name, scale, factor, shape

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """Those of the scale."""
        return self.scale.others

    def forward(self) -> Tensor:
        """``factor * scale``; nothing is learned from what lies at the end."""
        return (self.scale().detach() * self.factor).reshape(self.shape)

    def stored(self) -> dict[str, Array]:
        """The number."""
        return {self.name: array_of(self(), np.float32)}


class _Held(torch.autograd.Function):
    """``clip(start * share, floor, ceiling)`` with the gradient that `Scale` describes."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, start: Tensor, floor: Tensor, ceiling: Tensor, factor: Tensor) -> Tensor:
        """The scale."""
        raw = start * share
        ctx.save_for_backward(raw, floor, ceiling, factor)
        return torch.clamp(raw, floor, ceiling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """That share of it, but none that leads out of the range."""
        raw, floor, ceiling, factor = ctx.saved_tensors
        outwards = ((raw <= floor) & (grad > 0)) | ((raw >= ceiling) & (grad < 0))
        return torch.where(outwards, torch.zeros_like(grad), grad * factor), None, None, None, None
