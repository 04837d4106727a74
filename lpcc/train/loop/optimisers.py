"""What turns gradients into steps, and which parameters are pulled towards zero."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lpcc.errors import ModelError
from lpcc.train.recipe import Recipe

Tensor = Any

_UNSET = 0.0
"""The learning rate until the first step, which brings its own."""


def optimiser_of(recipe: Recipe, decayed: Iterable[Tensor], others: Iterable[Tensor]) -> Any:
    """The optimiser of a recipe over two groups of parameters: those that weight decay is for, and the others.

    A parameter that is named twice counts once, where it is named first; frozen ones do not count. Raises ModelError
    when there are none.
    """
    seen: set[int] = set()
    groups = []
    for parameters, decay in ((decayed, recipe.weight_decay), (others, 0.0)):
        own = [p for p in parameters if p.requires_grad and not (id(p) in seen or seen.add(id(p)))]  # type: ignore[func-returns-value]
        if own:
            groups.append({"params": own, "weight_decay": decay})
    if not groups:
        raise ModelError("the model has no weights that can be trained")
    if recipe.optimiser == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=_UNSET, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=_UNSET, betas=(recipe.momentum, 0.999), fused=True)


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
        group["lr"] = rate
    optimiser.step()
    return True
