"""How far outputs that changed a little are from those that they were: a divergence, and its square root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.errors import UsageError
from lpcc.quality import class_outputs

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]

_FLOATS = (1, 10, 11)  # float, float16, double in onnx.TensorProto.DataType
_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Divergence:
    """What of a network's outputs counts how much, without labels: how far they go from the network's own.

    For each image ``D(z | y) = sum over class scores of KL(p(y) || p(z)) + sum over others of |z - y|^2 / S``: the
    divergence of the class probabilities (of maps, the mean over the pixels), and the energy of the error against
    the mean energy of the output. These are the measures of `lpcc.quality.noise`. For a small change d of the outputs

        D(y + d | y) = 1/2 d' M d,   M = A A'
        A = diag(sqrt p) - p sqrt(p)'   for class scores that are logarithms of probabilities,
            diag(1 / sqrt p)            for those that are probabilities,
            sqrt(2 / S)                 for all others

    M is the Fisher information of the outputs: for class scores ``A A' = diag(p) - p p' = E (d log p_k)(d log p_k)'``
    over classes k drawn from p. So for e of random signs ``a = A e`` is what a gradient of ``-log p_k`` for a drawn
    class k is: its mean is 0 and its variance M. But it tells of all classes at once, and of sure decisions, too,
    where a drawn class is nearly always the highest, whose gradient is nearly 0.
    """

    classes: Mapping[str, int]
    """By name: outputs that are class scores, with the axis of the classes."""
    energies: Mapping[str, float]
    """By name: S of the others."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that count."""
        return (*self.classes, *self.energies)

    def root(self, name: str, output: Array, signs: Array) -> Array:
        """``A e`` of one output, float64: `output` and `signs` are of one shape, that of one image."""
        values = output.astype(np.float64)
        if name in self.energies:
            energy = self.energies[name]
            return np.asarray(signs * np.sqrt(2 / energy) if energy > 0 else np.zeros_like(values))
        axis = self.classes[name]
        pixels = values.size // values.shape[axis]
        if values.min() >= 0 and np.allclose(values.sum(axis=axis), 1, atol=1e-3):
            return np.asarray(signs / np.sqrt(np.maximum(values, _LEAST_PROBABILITY) * pixels))
        p = np.exp(values - values.max(axis=axis, keepdims=True))
        p /= p.sum(axis=axis, keepdims=True)
        roots = np.sqrt(p)
        return np.asarray((roots * signs - p * (roots * signs).sum(axis=axis, keepdims=True)) / np.sqrt(pixels))


def counting(model: onnx.ModelProto) -> tuple[dict[str, int], tuple[str, ...]]:
    """The outputs of a model that count: class scores with the axis of the classes, and all others of floats.

    Chosen classes and other integers do not: they do not change by a little.

    Raises:
        UsageError: none does.
    """
    floats = [o.name for o in model.graph.output if o.type.tensor_type.elem_type in _FLOATS]
    kinds = class_outputs(model)
    found = {name: axis for name in floats if name in kinds and (axis := kinds[name].axis) is not None}
    if not floats:
        raise UsageError("no output of the network is a tensor of floats: how much a channel matters shows in none")
    return found, tuple(name for name in floats if name not in found)


def divergence_of(
    classes: Mapping[str, int], others: Iterable[str], outputs: Iterable[tuple[Mapping[str, Array], int]]
) -> Divergence:
    """The divergence of a network, from its outputs on some images, batch by batch with how many images each has.

    Class scores of one class count as no class scores.
    """
    scores, energies = dict(classes), dict.fromkeys(others, 0.0)
    images = 0
    for batch, count in outputs:
        for name, axis in list(scores.items()):
            if batch[name].shape[axis] < 2:
                del scores[name]
                energies[name] = 0.0
        for name in energies:
            energies[name] += float(np.square(batch[name].astype(np.float64)).sum())
        images += count
    return Divergence(scores, {name: energy / max(1, images) for name, energy in energies.items()})
