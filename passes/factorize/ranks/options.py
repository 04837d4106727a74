"""Which ranks of a layer are worth a look: few, in numbers that suit the target's kernels, below break-even."""

from __future__ import annotations

from itertools import product
from math import gcd
from typing import Final

import numpy as np

from lpcc.passes.factorize.factors import Rank
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.ranks.analytic import rank_by_ratio, tail
from lpcc.passes.factorize.ranks.skeleton import Work, is_cpd, lowered, most, skeleton, unfoldings

_MOST: Final = 12
_MOST_OF_CPD: Final = 5  # each costs an alternating optimisation
_SIDE: Final = 6  # ranks of one unfolding of Tucker-2
_FINEST: Final = 4  # channels; fewer fill no vector register

_TOP: Final = 0.9
"""Share of the rank at break-even that is looked at: closer to it nothing is gained."""
_RANGE: Final = 16
"""How many times the least rank the largest is, where the numbers of channels allow."""
_BELOW: Final = 1 - 1e-9
"""Share of a layer's multiply-accumulates that is less than all of them."""


def candidates(form: Form, method: str, work: Work, multiple: int) -> tuple[Rank, ...]:
    """Ranks of a layer to choose from, ascending, at which a method has fewer multiply-accumulates than the layer.

    With `multiple` channels in a block of the target's kernels (`channel_multiple`), groups x rank is a multiple of it;
    where that leaves next to no choice, also a half, a quarter and so on of the least such rank, down to 4 channels.
    Ranks are spread geometrically: near the low end each step changes the error most. Pairs for Tucker-2 are those that
    no other beats in both multiply-accumulates and the sum of what the unfoldings lose, which bounds the error.
    """
    try:
        limit = rank_by_ratio(form, method, work, _BELOW)
    except Declined:
        return ()
    if len(limit) == 1:
        count = _MOST_OF_CPD if is_cpd(form, method) else _MOST
        found: list[Rank] = [(rank,) for rank in _spread(round(_TOP * limit[0]), form.groups, multiple, count)]
    else:
        sides = [_spread(full, form.groups, multiple, _SIDE) or [full] for full in most(form, method)]
        found = _undominated(form, method, work, [rank for rank in product(*sides) if lowered(form, rank) == rank])
    return tuple(found)


def _spread(limit: int, groups: int, multiple: int, count: int) -> list[int]:
    """About `count` ranks up to a limit."""
    step = multiple // gcd(multiple, groups)
    blocks = limit // step
    wanted = np.geomspace(max(1, blocks / _RANGE), blocks, count) if blocks else np.zeros(0)
    found = {step * round(each) for each in wanted}
    part = step
    while len(found) < 3 and part % 2 == 0 and part * groups > _FINEST:
        part //= 2
        found.update({part} if part <= limit else ())
    return sorted(found)


def _undominated(form: Form, method: str, work: Work, ranks: list[Rank]) -> list[Rank]:
    """The ranks that none of the others beats in work and in the bound of the error, `_MOST` of them at most."""
    lost = [tail(matrix) for matrix in unfoldings(form, method)]
    rated = sorted(
        (
            work.stages(skeleton(form, method, rank).stages),
            float(sum(loss[own - 1] for loss, own in zip(lost, rank, strict=True))),
            rank,
        )
        for rank in ranks
    )
    rated = [each for each in rated if each[0] < work.layer(form)]
    front: list[Rank] = []
    least = np.inf
    for _, bound, rank in rated:
        if bound < least:
            front.append(rank)
            least = bound
    places = np.unique(np.linspace(0, len(front) - 1, min(_MOST, len(front))).round().astype(int))
    return [front[place] for place in places]
