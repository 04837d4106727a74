"""What stands behind a tensor that training changes but that the graph stores in few bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch import nn

Array = np.ndarray[Any, Any]
Tensor = Any


class Latent(nn.Module, ABC):
    """The value of a tensor, as a differentiable function of parameters, and what the graph's constants make of it.

    What `stored` gives, put into the constants it names, makes the graph compute what `forward` gives, bit for bit.
    """

    @property
    @abstractmethod
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters that weight decay applies to, by the name of the tensor or constant that they stand for."""

    @property
    @abstractmethod
    def others(self) -> dict[str, nn.Parameter]:
        """The parameters that it does not apply to: biases and scales. Latents that share one give it the same name."""

    @abstractmethod
    def forward(self) -> Tensor:
        """The tensor's value, float32."""

    @abstractmethod
    def stored(self) -> dict[str, Array]:
        """New values of the constants behind the tensor, by name, in their types and shapes."""
