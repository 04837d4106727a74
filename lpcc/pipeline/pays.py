"""Does a rewrite pay? By measurement where the host is the target, by the target's cost model elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lpcc.pipeline.variant import Variant

_MEASURED_SLACK = 1.03
"""Ratio up to which two measured times count as equal: the noise of a shared machine."""
_PREDICTED_SLACK = 1.005
"""Ratio up to which two predicted times count as equal: no cost model tells them apart."""
_MEASURED_SECONDS = 3.0


@dataclass(frozen=True)
class Race:
    """Two models on one target: milliseconds of each, and the ratio of the second to the first."""

    before_ms: float
    after_ms: float
    ratio: float
    measured: bool

    @property
    def pays(self) -> bool:
        """Whether the second model is no slower at all, which an approximate pass owes for what it costs."""
        return self.ratio <= (1.0 if self.measured else _PREDICTED_SLACK)

    @property
    def slower(self) -> bool:
        """Whether the second model is slower, beyond what a measurement or a model can tell."""
        return self.ratio > (_MEASURED_SLACK if self.measured else _PREDICTED_SLACK)

    def __str__(self) -> str:
        how = "measured" if self.measured else "predicted"
        return f"{how} {self.ratio:.2f}x the time ({self.before_ms:.3f} -> {self.after_ms:.3f} ms)"


def race(before: Variant, after: Variant, feeds: Mapping[str, np.ndarray] | None) -> Race:
    """Time of `after` against `before` on their target; measured where it is the host and there are `feeds` to run on.

    Raises:
        ModelError: a model cannot run on `feeds`.
    """
    if before.target.is_host and feeds is not None:
        from lpcc.runtime import Session, compare

        found = compare(Session(before.model), Session(after.model), feeds, seconds=_MEASURED_SECONDS)
        return Race(found.a.median_ms, found.b.median_ms, found.ratio, measured=True)
    a, b = before.cost.latency_ms, after.cost.latency_ms
    return Race(a, b, b / a if a > 0 else 1.0, measured=False)
