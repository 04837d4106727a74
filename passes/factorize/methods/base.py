"""What a method of factorisation is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from lpcc.passes.factorize.factors import Factors, Rank, relative_error
from lpcc.passes.factorize.form import Form

Array = np.ndarray[Any, Any]


class Decomposition(ABC):
    """A layer decomposed by one method: found once, cut to a rank as often as wanted.

    With `moments`, the means of x x^T over the rows x that the layer reads, float64 (groups, depth, depth), what is
    kept is what matters to the layer's output on these; without, what matters to its weights.

    Raises Declined where the method says nothing of such a layer, or gains nothing at any rank.
    """

    name: ClassVar[str]

    def __init__(self, form: Form, moments: Array | None = None) -> None:
        self.form = form
        self.moments = moments
        self._errors: dict[Rank, float] = {}

    @property
    @abstractmethod
    def full(self) -> Rank:
        """The ranks at which nothing is lost, the least of them, of one group."""

    @abstractmethod
    def factors(self, rank: Rank) -> Factors:
        """The layer cut to a rank.

        Raises:
            ValueError: a rank is 0 or larger than that of `full`, or there are more or fewer numbers than there.
            Declined: the method fails on the layer at this rank; the message says how.
        """

    @property
    def is_quick(self) -> bool:
        """Whether `error` takes next to no time, once one has been asked for."""
        return False

    def error(self, rank: Rank) -> float:
        """Share of the energy of the layer's output that is lost at a rank (of its weights, without moments).

        Raises as `factors`.
        """
        if rank not in self._errors:
            self._errors[rank] = relative_error(self.form, self.factors(rank), self.moments)
        return self._errors[rank]

    def check(self, rank: Rank) -> None:
        """Raise ValueError for ranks that are none."""
        full = self.full
        if len(rank) != len(full):
            raise ValueError(f"{self.name} takes {len(full)} rank{'s' if len(full) > 1 else ''}, not {len(rank)}")
        for own, most in zip(rank, full, strict=True):
            if not 1 <= own <= most:
                raise ValueError(f"a rank of {own} is not between 1 and {most}")
