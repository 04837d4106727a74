"""How well made-up inputs suit the activations that a model limits on both sides, such as ReLU6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lpcc.runtime.session import Session, with_outputs
from lpcc.runtime.spec import Array

if TYPE_CHECKING:
    import onnx

_LOOKED_AT = 8
"""Activations, the first of the model: what they show is least blurred by the layers before them."""
_IDLE = 0.02
"""Standard deviation, as a share of the limits' distance, below which a channel counts as idle."""
_DEAR = 20.0
"""How much more a value at the upper limit counts than an idle channel: trained networks have few."""


class LimitProbe:
    """A model changed to give, besides its own outputs, the limited activations named in `limits`, (low, high) each.

    Raises ModelError when onnxruntime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, limits: Mapping[str, tuple[float, float]]) -> None:
        self._limits = dict(list(limits.items())[:_LOOKED_AT])
        self._session = Session(with_outputs(model, self._limits))

    def run(self, feeds: Mapping[str, Array]) -> None:
        """Run the model for the sake of whether it runs. Raises ModelError when it cannot run on `feeds`."""
        self._session.run(feeds, list(self._limits))

    def strain(self, batches: Iterable[Mapping[str, Array]]) -> float:
        """Share of the channels that hardly move, plus twenty times the share of the values at an upper limit.

        Inputs of too small a scale leave a network to its biases; those of too large a scale drive it into its limits.
        Raises ModelError when the model cannot run on the batches.
        """
        names = list(self._limits)
        runs = [self._session.run(feeds, names) for feeds in batches]
        return float(np.mean([_strain([run[name] for run in runs], *self._limits[name]) for name in names]))


def _strain(parts: Sequence[Array], low: float, high: float) -> float:
    values = np.concatenate([part.reshape(*part.shape[:2], -1).swapaxes(0, 1) for part in parts], axis=1)
    idle = values.reshape(len(values), -1).std(axis=1) < _IDLE * (high - low)
    return float(idle.mean() + _DEAR * (values >= high).mean())
