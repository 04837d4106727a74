"""A promise about predictions, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`what` was compared, what was `asked`, what was `measured`, and whether that is met.

    Measured on data that the fit did not see, or `detail` says so; it also says on how much, and what was held out.
    """

    what: str
    asked: str
    measured: str
    met: bool
    detail: str = ""


@dataclass(frozen=True)
class Points:
    """Predictions beside measurements of the same networks, held out of the fit, for the plot of a target.

    `what` names quantity and unit (``latency, ms``), `names` the networks.
    """

    target: str
    what: str
    names: tuple[str, ...]
    measured: tuple[float, ...]
    predicted: tuple[float, ...]

    @property
    def errors(self) -> tuple[float, ...]:
        """Relative errors, predicted / measured - 1."""
        return tuple(p / m - 1 for p, m in zip(self.predicted, self.measured, strict=True))

    def within(self, limit: float) -> float:
        """Share of the networks whose relative error is at most `limit`."""
        return sum(abs(error) <= limit for error in self.errors) / len(self.errors)
