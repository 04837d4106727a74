"""What carries a student's layer to the width of its teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lpcc.train.losses.base import LEAST

_RIDGE = 1e-2
"""Of the mean variance of the student's channels: enough to hold where a batch has fewer rows than channels."""
_ROWS = 1 << 16
"""Rows that the regression is made from at most; more would tell no more."""


class Regressor(nn.Module):
    """y = W x + b at every position: x (samples, channels, positions...), y of the teacher's channels."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    @classmethod
    def between(cls, student: Tensor, teacher: Tensor) -> Regressor:
        """The ridge regression of the teacher's layer on the student's, of the same positions."""
        with torch.no_grad():
            x, y = _rows(student).double(), _rows(teacher).double()
            step = -(-len(x) // _ROWS)
            x, y = x[::step], y[::step]
            x_mean, y_mean = x.mean(0), y.mean(0)
            x, y = x - x_mean, y - y_mean
            gram = x.T @ x
            ridge = _RIDGE * gram.diagonal().mean() + LEAST
            eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            weight = torch.linalg.solve(gram + ridge * eye, x.T @ y).T
            bias = y_mean - weight @ x_mean
            return cls(weight.to(student.dtype).contiguous(), bias.to(student.dtype))

    def forward(self, layer: Tensor) -> Tensor:
        """The layer in the teacher's channels."""
        flat = layer.flatten(2) if layer.ndim > 2 else layer[:, :, None]
        carried = self.weight @ flat + self.bias[:, None]
        return carried.reshape(len(layer), len(self.bias), *layer.shape[2:])


def _rows(layer: Tensor) -> Tensor:
    return layer.movedim(1, -1).flatten(0, -2)
