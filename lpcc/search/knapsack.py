"""The multiple-choice knapsack, solved exactly.

One option of each group is chosen, least in total of one quantity, within limits of others:

    minimise    sum over groups g, options o of  x[g,o] * quantity[g,o]
    subject to  sum over o of x[g,o] = 1 for each g,   x in {0, 1},
                sum over g, o of  x[g,o] * other[g,o] <= limit  for each limited quantity

Groups are layers, options what can be done with them (bits, a share of channels, a rank), quantities the damage, bytes,
milliseconds. The reverse question, least bytes for so much damage, is the same with the roles exchanged. Solved as an
integer programme by HiGHS' branch and bound (Huangfu and Hall, Parallelizing the dual revised simplex method, 2018).
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lpcc.errors import BudgetError

Option = Mapping[str, float]
"""What choosing an option adds to each quantity. One that is infinite or NaN anywhere is never chosen."""

_LARGEST = 1e4
"""Largest coefficient after scaling: the solver's tolerances (1e-6) are then far below what matters."""
_SLACK = 1e-9
"""Relative excess over a limit that counts as rounding."""
_ATTEMPTS = 50

Array = np.ndarray[Any, Any]


class Infeasible(BudgetError):  # noqa: N818 - it says what is, not what went wrong
    """No combination keeps to the limits."""


def choose(groups: Sequence[Sequence[Option]], minimise: str, limits: Mapping[str, float]) -> tuple[int, ...]:
    """The index of the option chosen in each group.

    Of options of one group that are alike in all quantities the first counts. Same arguments give the same result.

    Raises:
        Infeasible: nothing keeps to the limits; says what is the least possible.
    """
    wanted = [minimise, *limits]
    kept = [_undominated(group, wanted) for group in groups]
    for place, group in enumerate(kept):
        if not group:
            raise Infeasible(f"group {place + 1} of {len(groups)} has no option of finite {' and '.join(wanted)}")
    _check(groups, kept, limits)
    if not groups:
        return ()
    forbidden: list[tuple[int, ...]] = []
    for _ in range(_ATTEMPTS):
        found = _solve(groups, kept, minimise, limits, forbidden)
        if all(total(groups, found, name) <= limit + _SLACK * abs(limit) for name, limit in limits.items()):
            return found
        forbidden.append(found)  # within the solver's tolerance of a limit, but beyond it
    raise Infeasible(f"no choice keeps {_words(limits)}")


def total(groups: Sequence[Sequence[Option]], chosen: Iterable[int], name: str) -> float:
    """What a choice adds up to in one quantity."""
    return math.fsum(group[place][name] for group, place in zip(groups, chosen, strict=True))


def _undominated(group: Sequence[Option], names: Sequence[str]) -> list[int]:
    """The options that could be part of a best choice: finite, and none before or better is as good in everything."""
    found: list[int] = []
    points = [tuple(option[name] for name in names) for option in group]
    for place, point in enumerate(points):
        if not all(map(math.isfinite, point)):
            continue
        beaten = any(
            all(a <= b for a, b in zip(other, point, strict=True)) and (other != point or rival < place)
            for rival, other in enumerate(points)
            if rival != place and all(map(math.isfinite, other))
        )
        if not beaten:
            found.append(place)
    return found


def _check(groups: Sequence[Sequence[Option]], kept: Sequence[Sequence[int]], limits: Mapping[str, float]) -> None:
    """Say which limit is out of reach even alone."""
    for name, limit in limits.items():
        least = math.fsum(
            min(group[place][name] for place in places) for group, places in zip(groups, kept, strict=True)
        )
        if least > limit + _SLACK * abs(limit):
            raise Infeasible(f"no choice keeps {name} within {limit:g}: the least possible is {least:g}")


def _solve(
    groups: Sequence[Sequence[Option]],
    kept: Sequence[Sequence[int]],
    minimise: str,
    limits: Mapping[str, float],
    forbidden: Sequence[tuple[int, ...]],
) -> tuple[int, ...]:
    from scipy.optimize import Bounds, LinearConstraint, milp

    columns = [(group, place) for group, places in enumerate(kept) for place in places]
    owner = np.array([group for group, _ in columns])

    def row(name: str) -> Array:
        return np.array([groups[group][place][name] for group, place in columns], dtype=np.float64)

    constraints = [LinearConstraint((owner == np.arange(len(groups))[:, None]).astype(np.float64), 1, 1)]
    for name, limit in limits.items():
        values = row(name)
        scale = _scale(values)
        constraints.append(
            LinearConstraint(values * scale, -np.inf, limit * scale * (1 + math.copysign(_SLACK, limit)))
        )
    for choice in forbidden:
        same = np.array([float(choice[group] == place) for group, place in columns])
        constraints.append(LinearConstraint(same, -np.inf, len(groups) - 1))
    objective = row(minimise)
    # What all options of a group have in common decides nothing and would only cost digits.
    objective = objective - np.array([objective[owner == group].min() for group in owner])
    with _silence():
        result = milp(
            objective * _scale(objective),
            integrality=np.ones(len(columns)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        raise Infeasible(f"no choice keeps {_words(limits)} at the same time")
    chosen = np.flatnonzero(result.x > 0.5)
    return tuple(columns[column][1] for column in chosen)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the solver's own code writes off the standard output, where a program may expect a result.

    HiGHS now and then prints the name of one of its functions, whatever it is asked. Where the C library's buffers
    cannot be emptied from here, that is left as it is.
    """
    try:
        empty = ctypes.CDLL(None).fflush
        sys.stdout.flush()
        kept = os.dup(1)
    except (AttributeError, OSError, TypeError, ValueError):
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    empty(None)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        empty(None)
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _words(limits: Mapping[str, float]) -> str:
    return " and ".join(f"{name} within {limit:g}" for name, limit in limits.items())


def _scale(row: Array) -> float:
    """What to multiply a row of coefficients by so that they are neither tiny nor huge."""
    largest = float(np.abs(row).max(initial=0.0))
    return _LARGEST / largest if largest > 0 and math.isfinite(_LARGEST / largest) else 1.0
