"""Damage of pruning each group alone, measured on images, in parallel, and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.data import Dataset
from lpcc.graph import to_proto
from lpcc.passes.prune.portions import Curve
from lpcc.passes.prune.ranking import Ranking
from lpcc.pipeline import Context, Pass
from lpcc.sensitivity import Subject, Table, around, measure
from lpcc.sensitivity.survey import NOTHING

Array = np.ndarray[Any, Any]

SHARES = ("0.125", "0.25", "0.375", "0.5", "0.625", "0.75", "0.875")
"""Shares of a group's channels at which its damage is measured."""
_WORK = 20_000_000_000
"""Multiply-accumulates that judging one trial takes, about: it decides how many images are used."""
_JUDGED = (32, 500)
_APART = 4
"""One image in so many is judged by, and the others fitted to."""
_MOST_IMAGES = 1000
_MOST_VALUES = 1 << 25
"""Of the images that damages are measured with: 128 MiB."""


def measured_curves(
    graph: gs.Graph, ranking: Ranking, item: Pass, ctx: Context, images: int, cache: str, processes: int
) -> Mapping[str, Curve]:
    """By name of a group its curve of damage, when `item`, whose option `shares` says how much goes, prunes it alone.

    The damage is `lpcc.quality.noise` of the outputs against those of the network itself, on the first `images` of the
    calibration at most.
    """
    if ctx.calibration is None:
        return {}
    data = ctx.calibration.head(min(len(ctx.calibration), images))
    table = sensitivities(subject_of(graph, item, ctx, data), ranking, SHARES, ctx, cache, processes)
    found = {}
    for group in ranking.groups:
        points = {0: 0.0}
        for share in SHARES:
            count = count_of(float(share), len(group))
            points.setdefault(count, max(0.0, table.damage(NOTHING, group.name, share)))
        points.setdefault(len(group) - 1, np.inf)
        found[group.name] = Curve.through(points)
    return found


def count_of(share: float, size: int) -> int:
    """How many channels a share of a group is: the nearest number, and never all."""
    return min(int(share * size + 0.5), size - 1)


def sensitivities(
    subject: Subject, ranking: Ranking, shares: Sequence[str], ctx: Context, cache: str, processes: int
) -> Table:
    """A row for each group and share, all others whole. Measured once in a run, also where the guard asks again."""
    names = [group.name for group in ranking.groups]

    def measured() -> Table:
        return measure(
            subject,
            around(names, NOTHING, shares),
            cache=Path(cache) if cache else None,
            processes=processes or None,
            progress=partial(ctx.progress, "measure sensitivities"),
        )

    return ctx.keep(f"prune: {subject.digest} {shares} {names}", measured)


def subject_of(graph: gs.Graph, item: Pass, ctx: Context, data: Dataset) -> Subject:
    """What is measured: the network, and what `item` makes of it on three of four images, judged by the fourth.

    What was fitted to images looks better on these than on others: 128 weights to 800 averages lose nothing there.
    """
    images = _images(data)
    count = len(next(iter(images.values())))
    work = sum(macs(graph, bind(graph)).values())
    judged = min(count // _APART, int(np.clip(_WORK // max(1, work), *_JUDGED)))
    model = to_proto(graph).SerializeToString(deterministic=True)
    used = {name: values[: count - judged] for name, values in images.items()}
    apart = {name: values[count - judged :] for name, values in images.items()}
    return Subject(
        model,
        replace(item, skip=()),  # type: ignore[call-arg]
        "shares",
        used,
        len(next(iter(used.values()))),
        ctx.target,
        seed=ctx.seed,
        apart=(apart, None) if judged else None,
    )


def _images(data: Dataset) -> dict[str, Array]:
    """The first images as arrays by input name."""
    first = next(iter(data.head(1).blocks(1))).arrays
    values = sum(array.size for array in first.values())
    count = max(1, min(len(data), _MOST_IMAGES, _MOST_VALUES // max(1, values)))
    blocks = [block.arrays for block in data.head(count).blocks(count)]
    return {name: np.concatenate([arrays[name] for arrays in blocks]) for name in first}
