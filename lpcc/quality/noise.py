"""How far a network's outputs are from those of another, in one number that is to be made small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcc.quality.tallies import scores

Array = np.ndarray[Any, Any]

_ENERGY_SHARE = 0.1
"""Weight of the energy of the error beside the divergence of the class probabilities."""


@dataclass(frozen=True)
class Noise:
    """How far results are from those expected, in two measures."""

    decisions: float
    """Mean divergence ``KL(p || q)`` of the class probabilities, summed over the outputs that are class scores."""
    energy: float
    """Energy of the error relative to that of the signal, summed over the outputs; class scores count a tenth."""

    @property
    def total(self) -> float:
        """Both in one number."""
        return self.decisions + self.energy

    def beats(self, other: Noise, share: float = 1.0) -> bool:
        """Whether both measures are below `share` of those of `other`; one that is zero there does not count.

        Over few images a few near a decision can make up most of the first, and chance seldom moves both alike.
        """
        pairs = ((self.decisions, other.decisions), (self.energy, other.energy))
        known = [(mine, theirs) for mine, theirs in pairs if theirs > 0]
        return bool(known) and all(mine < share * theirs for mine, theirs in known)

    def relative_to(self, other: Noise) -> float:
        """Mean of the two measures as shares of those of `other`; a measure that is zero there does not count."""
        pairs = ((self.decisions, other.decisions), (self.energy, other.energy))
        shares = [mine / theirs for mine, theirs in pairs if theirs > 0]
        return sum(shares) / len(shares) if shares else self.total


def noise_of(pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]]) -> float:
    """How far results are from those expected, summed over the outputs.

    For class scores (N, C) the mean divergence ``KL(p || q)`` of the class probabilities, since what moves a decision
    matters and what moves improbable classes does not, plus a little of the other measure, which decides where all
    classes are sure. For all other outputs the energy of the error relative to that of the signal.
    """
    return noise_parts(pairs).total


def noise_parts(pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]]) -> Noise:
    """The two parts of `noise_of`, from pairs of what is expected and what is found, by name of the output."""
    signal: dict[str, float] = {}
    error: dict[str, float] = {}
    divergences: dict[str, list[Array]] = {}
    for expected, found in pairs:
        for name, value in expected.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                continue
            reference, result = value.astype(np.float64), found[name].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float(np.square(reference).sum())
            error[name] = error.get(name, 0.0) + float(np.square(result - reference).sum())
            if scores(value) is not None:
                p, q = _log_probabilities(reference, result)
                divergences.setdefault(name, []).append((np.exp(p) * (p - q)).sum(axis=1))
    energy = {name: error[name] / signal[name] for name in signal if signal[name] > 0}
    return Noise(
        sum(float(np.concatenate(rows).mean()) for rows in divergences.values()),
        sum(e * (_ENERGY_SHARE if name in divergences else 1.0) for name, e in energy.items()),
    )


def _log_probabilities(reference: Array, result: Array) -> tuple[Array, Array]:
    """Logarithms of the class probabilities (N, C) of scores, which may be probabilities already or logits.

    The reference tells which: rounded probabilities need not add up to one. Where rounding made zeros of some, what is
    less than half of the least number left counts as that half in both.
    """
    p, q = (output.reshape(len(output), -1) for output in (reference, result))
    if p.min() >= 0 and np.allclose(p.sum(axis=1), 1, atol=1e-3):
        left = q[q > 0]
        floor = max(1e-9, float(left.min()) / 2) if len(left) and len(left) < q.size else 1e-9
        p, q = np.log(np.maximum(p, floor)), np.log(np.maximum(q, floor))
    return _normalised(p), _normalised(q)


def _normalised(logits: Array) -> Array:
    rows = logits - logits.max(axis=1, keepdims=True)
    shifted: Array = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return shifted
