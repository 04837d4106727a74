"""SOAP: Adam along the axes of Shampoo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

Tensor = Any

_LARGEST = 1024
"""Rows or columns beyond which no axes are looked for: their number costs its cube."""
_EVERY = 10
"""Steps between two looks at the axes."""
_EPSILON = 1e-8


class Soap(torch.optim.Optimizer):
    """Adam in the eigenvectors of what Shampoo preconditions with.

    Of a weight as a matrix (N, everything else) with gradient G, at step t:

        L <- b2 L + (1 - b2) G G^T      R <- b2 R + (1 - b2) G^T G       with eigenvectors Q_L and Q_R
        M <- b1 M + (1 - b1) G          V <- b2 V + (1 - b2) (Q_L^T G Q_R)^2
        W <- W - rate Q_L (Q_L^T M Q_R / (1 - b1^t) / (sqrt(V / (1 - b2^t)) + eps)) Q_R^T

    Every ten steps the eigenvectors follow L and R by one step of orthogonal iteration. The first gradient only says
    where they begin. Vectors, and sides of more than 1,024, have no axes but their own: they learn as in Adam. Weights
    decay decoupled.

    Vyas et al.: SOAP: Improving and Stabilizing Shampoo using Adam, 2024 (arXiv 2409.11321, algorithm 3).
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 - torch's interface
        """Take a step along the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: Tensor, group: Mapping[str, Any]) -> None:
        state, rate = self.state[weight], group["lr"]
        first, second = group["betas"]
        gradient = weight.grad.reshape(len(weight), -1) if weight.ndim > 1 else weight.grad.reshape(1, -1)
        if not state:
            _begin(state, gradient, is_matrix=weight.ndim > 1)
            return
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["squares"].lerp_(_turned(state, gradient).square(), 1 - second)
        mean = _turned(state, state["mean"]) / (1 - first ** state["step"])
        size = (state["squares"] / (1 - second ** state["step"])).sqrt() + _EPSILON
        if group["weight_decay"]:
            weight.mul_(1 - rate * group["weight_decay"])
        weight.add_(_back(state, mean / size).reshape(weight.shape), alpha=-rate)
        for side, product in _products(state, gradient):
            state[f"moments{side}"].lerp_(product, 1 - second)
        if state["step"] % _EVERY == 0:
            _follow(state)


def _begin(state: dict[str, Any], gradient: Tensor, *, is_matrix: bool) -> None:
    state["step"] = 0
    state["mean"], state["squares"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    for side, size in enumerate(gradient.shape):
        if is_matrix and 1 < size <= _LARGEST:
            state[f"axes{side}"] = None
    for side, product in _products(state, gradient):
        state[f"moments{side}"] = product
        state[f"axes{side}"] = torch.linalg.eigh(product)[1]


def _products(state: Mapping[str, Any], gradient: Tensor) -> list[tuple[int, Tensor]]:
    """``G G^T`` and ``G^T G``, of the sides that have axes."""
    sides = (gradient, gradient.T)
    return [(side, own @ own.T) for side, own in enumerate(sides) if f"axes{side}" in state]


def _turned(state: Mapping[str, Any], matrix: Tensor) -> Tensor:
    """A matrix in the axes."""
    if "axes0" in state:
        matrix = state["axes0"].T @ matrix
    return matrix @ state["axes1"] if "axes1" in state else matrix


def _back(state: Mapping[str, Any], matrix: Tensor) -> Tensor:
    """A matrix in the axes as it is."""
    if "axes0" in state:
        matrix = state["axes0"] @ matrix
    return matrix @ state["axes1"].T if "axes1" in state else matrix


def _follow(state: dict[str, Any]) -> None:
    """Bring the axes closer to the eigenvectors, those of most energy first, and their squares into the same order."""
    for side in (0, 1):
        if f"axes{side}" not in state:
            continue
        axes, moments = state[f"axes{side}"], state[f"moments{side}"]
        order = (axes * (moments @ axes)).sum(0).argsort(descending=True)
        state["squares"] = state["squares"].index_select(side, order)
        state[f"axes{side}"] = torch.linalg.qr(moments @ axes[:, order])[0]
