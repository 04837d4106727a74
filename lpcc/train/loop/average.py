"""The moving average of the weights: what a student would be if its steps were taken with a steadier hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

Tensor = Any
State = dict[str, Tensor]


def tensors_of(module: Any) -> State:
    """What training changes in a module, by name: its parameters, and the buffers that persist."""
    found: State = module.state_dict(keep_vars=True)
    return found


def state_of(module: Any) -> State:
    """A copy of what training changes in a module, on the device where it is."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(module).items()}


def restore(module: Any, state: Mapping[str, Tensor]) -> None:
    """Put a copy back, in place: parameters stay the same objects. What is unchanged is not written to."""
    with torch.no_grad():
        for name, tensor in tensors_of(module).items():
            saved = state[name].to(tensor.device)
            if not torch.equal(tensor, saved):
                tensor.copy_(saved)


class Average:
    """Exponential moving average of a module's parameters and running statistics (Polyak & Juditsky 1992).

        a <- d a + (1 - d) w       after each step t = 1, 2, ..., with d = min(decay, (1 + t) / (10 + t))

    The smaller ``d`` of the first steps lets it forget where it started (as TensorFlow's moving averages do). Whole
    numbers are taken over as they are. A weight that stays zero is zero in the average too.
    """

    def __init__(self, module: Any, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.steps = 0
        self.state = state_of(module)

    def update(self) -> None:
        """Take in the module as it is after a step."""
        self.steps += 1
        share = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, tensor in tensors_of(self._module).items():
                average = self.state[name]
                if not tensor.is_floating_point():
                    average.copy_(tensor)
                else:
                    average.lerp_(tensor, share)

    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from an average of `steps` steps."""
        self.steps = steps
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the module has the average; afterwards what it had before."""
        own = state_of(self._module)
        restore(self._module, self.state)
        try:
            yield
        finally:
            restore(self._module, own)
