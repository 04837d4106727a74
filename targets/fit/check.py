"""A promise about predictions, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`what` was compared, what was `asked`, what was `measured`, and whether that is met.

    Measured on data that the fit did not see; `detail` says on how much, and what was held out.
    """

    what: str
    asked: str
    measured: str
    met: bool
    detail: str = ""
