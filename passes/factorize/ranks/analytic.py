"""Ranks that need no target: by the energy that they keep, and by the multiply-accumulates that they leave."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lpcc.passes.factorize.factors import Rank
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.base import Decomposition
from lpcc.passes.factorize.ranks.skeleton import Work, most, skeleton, unfoldings

Array = np.ndarray[Any, Any]


def rank_by_energy(found: Decomposition, energy: float) -> Rank:
    """The least rank at which a layer keeps a share of its energy: ``error(rank) <= 1 - energy``.

    Found by bisection, as errors fall with the rank. Tucker-2 has a rank for either unfolding: pairs are looked at in
    which both unfoldings lose the same share of their energy, the least of which is taken. As the error of Tucker-2 is
    at most the sum of what its unfoldings lose (De Lathauwer, De Moor, Vandewalle, SIAM J. Matrix Anal. 21, 2000),
    half of it each is enough.

    Raises:
        Declined: no rank keeps so much.
    """
    ranks = rising(found)

    def keeps(place: int) -> bool:
        try:
            return found.error(ranks[place]) <= 1 - energy
        except Declined:
            return False

    if not keeps(len(ranks) - 1):
        raise Declined(f"no rank of {found.name} keeps {energy:g} of its energy")
    return ranks[_first(len(ranks), keeps)]


def rank_by_ratio(form: Form, method: str, work: Work, ratio: float, multiple: int = 1) -> Rank:
    """The largest rank at which a layer has at most a share of its multiply-accumulates.

    Ranks are multiples of `multiple`, unless even the least of these costs too much. Those of Tucker-2 are in the
    proportion of the layer's channels.

    Raises:
        Declined: even rank 1 costs more.
    """
    limit = ratio * work.layer(form)
    full = most(form, method)

    def fits(rank: Rank) -> bool:
        return work.stages(skeleton(form, method, rank).stages) <= limit

    def at(place: int) -> Rank:
        return tuple(-(-each * (place + 1) // max(full)) for each in full)

    too_much = _first(max(full), lambda place: not fits(at(place)))
    if too_much == 0:
        raise Declined(f"{method} has more than {ratio:g} of its multiply-accumulates at every rank")
    rank = at(too_much - 1)
    aligned = tuple(each - each % multiple for each in rank)
    return aligned if min(aligned) else rank


def rising(found: Decomposition) -> Sequence[Rank]:
    """Ranks from the least to the full ones: all of them, or pairs that lose the same share in both unfoldings."""
    if len(found.full) == 1:
        return [(rank,) for rank in range(1, found.full[0] + 1)]
    losses = [tail(matrix) for matrix in unfoldings(found.form, found.name)]
    shares = sorted({share for loss in losses for share in loss}, reverse=True)
    pairs = [
        tuple(min(1 + bisect_left(-loss, -share), most) for loss, most in zip(losses, found.full, strict=True))
        for share in shares
    ]
    return list(dict.fromkeys([*pairs, found.full]))


def tail(matrices: Array) -> Array:
    """The share of the energy of matrices (groups, rows, columns) that is lost at rank 1, 2, ...; descending."""
    small = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.swapaxes(1, 2)
    squares = np.maximum(np.linalg.eigvalsh(small @ small.swapaxes(1, 2)), 0.0)[:, ::-1].sum(axis=0)
    lost = np.append(np.cumsum(squares[::-1])[::-1][1:], 0.0)
    return np.asarray(lost / max(float(squares.sum()), np.finfo(np.float64).tiny))


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first of so many places at which something holds that holds from there on; `count` if nowhere."""
    return bisect_left(range(count), True, key=holds)
