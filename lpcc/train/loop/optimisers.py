"""What turns gradients into steps, and which parameters are pulled towards zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from lpcc.errors import ModelError
from lpcc.train.loop.soap import Soap
from lpcc.train.recipe import Recipe

Tensor = Any

_UNSET = 0.0
"""The learning rate until the first step, which brings its own."""
_SMALL = 2.0**-4
"""Size of weights, as the root of their mean square, below which Adam takes smaller steps."""

_SECOND_OF_SOAP = 0.95
"""Share of the squares and the products of gradients in the next, as its authors have it."""


def optimiser_of(recipe: Recipe, decayed: Iterable[Tensor], others: Iterable[Tensor]) -> Any:
    """The optimiser of a recipe over two groups of parameters: those that weight decay is for, and the others.

    A parameter that is named twice counts once, where it is named first; frozen ones do not count. Adam moves every
    number by up to the learning rate, whatever its size; filters behind a folded batch norm, or on pixels from 0 to
    255, are so small that this would be the end of them. Weights of a size below `_SMALL` take that share of it, as
    with the relative steps of Adafactor (Shazeer & Stern 2018), by powers of two. Raises ModelError when there are no
    parameters.
    """
    adam = recipe.optimiser != "sgd"
    seen: set[int] = set()
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameters, decay in ((decayed, recipe.weight_decay), (others, 0.0)):
        for parameter in parameters:
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                share = _share(parameter) if adam and parameters is decayed else 1.0
                groups.setdefault((decay, share), []).append(parameter)
    if not groups:
        raise ModelError("the model has no weights that can be trained")
    given = [{"params": own, "weight_decay": decay, "share": share} for (decay, share), own in groups.items()]
    if recipe.optimiser == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(given, lr=_UNSET, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    if recipe.optimiser == "soap":
        return Soap(given, lr=_UNSET, betas=(float(recipe.momentum), _SECOND_OF_SOAP))
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(given, lr=_UNSET, betas=(float(recipe.momentum), 0.999), fused=True)


def _share(weight: Tensor) -> float:
    """The share of the learning rate for weights of this size, those that are zero aside."""
    with torch.no_grad():
        size = float(weight.square().sum() / max(1, int(weight.count_nonzero()))) ** 0.5
    return 2.0 ** min(0, math.floor(math.log2(size / _SMALL))) if 0 < size < math.inf else 1.0


def groups_of(student: Any, objective: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of a student and an objective: those that decay, and the others.

    A student says which of its own decay (`weights`); a parameter that it does not name does not. Of an objective's own
    those of two dimensions or more do.
    """
    own = list(objective.parameters())
    decayed = [*student.weights.values(), *(p for p in own if p.ndim > 1)]
    return decayed, [*student.others.values(), *student.parameters(), *own]


def step_of(optimiser: Any, rate: float, clip: float) -> bool:
    """Take one step at a learning rate, with the gradient's norm cut to `clip` (0: not).

    False, and no step, where the gradient's norm is not finite (which is looked at where it is cut).
    """
    if clip > 0:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        if not bool(torch.isfinite(norm)):
            return False
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]
    optimiser.step()
    return True
