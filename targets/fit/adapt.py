"""Adapting a target to a device on which a few whole networks were measured.

    milliseconds = scale x (sum over groups g of factor_g x predicted_g + predicted overheads) + constant

The scale is free. Factors of groups of kernels and the constant are held near 1 and 0 by a prior, so that five networks
move them little and fifty as far as they ask for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lpcc.cost import Cost
from lpcc.cost.kinds import ELEMENT_KINDS, MAC_KINDS

_SPREAD = 0.07
"""Relative error that a prediction has in any case, as a standard deviation."""
_FREEDOM = 0.25
"""How far factors may be expected to lie from 1, as a standard deviation of their logarithm."""
_CONSTANT = 0.02
"""The same for the constant, as a share of the fastest network's time."""
_DOUBT = 2.0
"""Spreads from which an error counts for less than its square: perhaps the measurement is to blame."""
_NOTHING = 1e-3
"""A constant below this share of the fastest network's time is none."""
_MOVED = 0.02
"""Factors nearer to 1 than this are not worth a line."""

Groups = Mapping[str, float]
"""Predicted milliseconds by group: ``dense``, ``depthwise``, ``elements``, each also as ``dense int8``; ``fixed``."""

_KINDS = {
    "dense": tuple(kind for kind in MAC_KINDS if kind != "depthwise"),
    "depthwise": ("depthwise",),
    "elements": ELEMENT_KINDS,
}
_GROUP = {kind: group for group, kinds in _KINDS.items() for kind in kinds}


@dataclass(frozen=True)
class Adaptation:
    """What measurements make of a target's predictions: a factor for all, further ones by group, and a constant."""

    scale: float = 1.0
    factors: Groups = field(default_factory=dict)
    """Of ``depthwise`` and ``elements``, relative to ``dense``, and of ``int8``, relative to float."""
    constant_ms: float = 0.0

    def predict_ms(self, groups: Groups) -> float:
        """Milliseconds of a network whose predicted milliseconds are `groups`."""
        total = sum(self._factor(name) * value for name, value in groups.items() if name != "fixed")
        return self.scale * (total + groups.get("fixed", 0.0)) + self.constant_ms

    def by_kind(self) -> dict[str, float]:
        """The factors by kind of kernel and by number format, as a target file states them."""
        found = {kind: value for group, value in self.factors.items() for kind in _KINDS.get(group, (group,))}
        return {kind: value for kind, value in found.items() if abs(value - 1) > _MOVED}

    def _factor(self, name: str) -> float:
        group, _, number_format = name.partition(" ")
        return self.factors.get(group, 1.0) * self.factors.get(number_format, 1.0)


def groups_of(cost: Cost) -> dict[str, float]:
    """Predicted milliseconds of a network by group, and what is ``fixed`` in each inference."""
    found: defaultdict[str, float] = defaultdict(float)
    for layer in cost.layers:
        if layer.kernel == "view":
            found["fixed"] += layer.latency_ms
            continue
        group = _GROUP.get(layer.kernel, "elements")
        integer = layer.dtype == "int8" or layer.dtype.endswith(("s8", "u8"))
        found[f"{group} int8" if integer else group] += layer.latency_ms
    found["fixed"] += cost.latency_ms - sum(layer.latency_ms for layer in cost.layers)
    return dict(found)


def adapt(predicted: Sequence[Groups], measured_ms: Sequence[float]) -> Adaptation:
    """The adaptation that fits measured networks best, given how unlikely large factors are.

    Minimises squared relative errors over their spread, plus squared logarithms of the factors over theirs. Groups that
    no network has keep a factor of 1.
    """
    from scipy.optimize import least_squares

    measured = np.asarray(measured_ms, np.float64)
    present = {name for groups in predicted for name, value in groups.items() if value > 0 and name != "fixed"}
    free = [group for group in ("depthwise", "elements") if {group, f"{group} int8"} & present]
    if any(name.endswith(" int8") for name in present) and any(not name.endswith(" int8") for name in present):
        free.append("int8")
    unit = _CONSTANT * float(measured.min())

    def of(values: NDArray[np.float64]) -> Adaptation:
        factors = {name: float(np.exp(value)) for name, value in zip(free, values[1:-1], strict=True)}
        return Adaptation(float(np.exp(values[0])), factors, unit * float(values[-1]))

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = of(values)
        errors = np.log([found.predict_ms(groups) for groups in predicted]) - np.log(measured)
        return np.concatenate([errors / _SPREAD, values[1:-1] / _FREEDOM, values[-1:]])

    raw = np.array([sum(groups.values()) for groups in predicted])
    start = np.zeros(2 + len(free))
    start[0] = float(np.median(np.log(measured / raw)))
    start[-1] = 1e-3
    low = np.full(start.shape, -np.inf)
    low[-1] = 0.0
    found = of(least_squares(residuals, start, bounds=(low, np.inf), x_scale="jac", loss="soft_l1", f_scale=_DOUBT).x)
    return found if found.constant_ms > _NOTHING * measured.min() else replace(found, constant_ms=0.0)


def leave_one_out(predicted: Sequence[Groups], measured_ms: Sequence[float]) -> list[float]:
    """Relative error of each network, predicted by what the others teach."""
    errors = []
    for index, groups in enumerate(predicted):
        others = [i for i in range(len(predicted)) if i != index]
        found = adapt([predicted[i] for i in others], [measured_ms[i] for i in others])
        errors.append(found.predict_ms(groups) / measured_ms[index] - 1)
    return errors
