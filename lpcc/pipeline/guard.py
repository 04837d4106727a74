"""The guard: what the approximate passes made must be within the budget, or layers go back to float, worst first.

The exact graph is kept. Each attempt runs the approximate passes on a fresh copy of it and judges the result. Where the
budget does not hold, the layers that do the most damage of their own are added to the passes' `skip`, and the next
attempt starts; calibration is not repeated. If the budget does not hold with all layers back, the passes are
taken back as a whole, and the exact graph is the result.

The damage of a layer is the fall of the signal-to-quantisation-noise ratio from its noisiest input to its output: a
layer that merely hands on the noise of earlier ones does none. In decibels early layers seem to do most of it, as they
start from no noise at all; as a share of the signal, which is what adds up, later ones. Where the two do not blame the
same layers, both are tried: on FastestDet one layer goes back in place of two, the first convolution among them.

A layer that loses channels makes no noise itself: those that read it do. Passes that remove some say what each does to
the outputs when nothing else goes (`Changes.damage`), and that is the damage then. Such a layer gets its channels back;
the others lose no more for it, or the next attempt would be worse than the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from lpcc.graph import clone, to_proto
from lpcc.pipeline.base import Fidelity, Pass
from lpcc.pipeline.context import Context
from lpcc.pipeline.layers import can_skip
from lpcc.pipeline.noise import LayerNoise, Noise, loudest, noise_of_records, worst
from lpcc.pipeline.runner import Hook, Record, run_pipeline
from lpcc.pipeline.variant import Variant

if TYPE_CHECKING:
    import numpy as np
    import onnx_graphsurgeon as gs


_WORTH = 0.99
"""Share of the time that is as good as a decibel less."""


@dataclass(frozen=True)
class Judgement:
    """How a result compares with the original, and what part of the budget it breaks (None: it holds)."""

    metric: str
    samples: int
    before: float | None
    after: float | None
    drop: float | None
    agreement: float | None
    sqnr_db: float | None
    problem: str | None


@dataclass(frozen=True)
class Returned:
    """A layer that went back, and the SQNR of its output in dB that it had before.

    `alone`: that of the model's outputs, if nothing but this layer had changed. `rounded`: it went back to float.
    """

    layer: str
    sqnr_db: float
    alone: bool = False
    rounded: bool = False

    def __str__(self) -> str:
        if self.alone:
            return f"`{self.layer}` went back: by itself it leaves the outputs {self.sqnr_db:.1f} dB"
        return f"`{self.layer}` went back{' to float' if self.rounded else ''}: {self.sqnr_db:.1f} dB"


@dataclass(frozen=True)
class Outcome:
    """What the guard let through.

    `graph` is the best result within the budget: the exact graph where `kept` is false. `judgement` is that of the last
    attempt, of the first one where nothing was kept.
    """

    graph: gs.Graph
    kept: bool
    records: tuple[Record, ...]
    judgement: Judgement
    returned: tuple[Returned, ...]


Judge = Callable[[onnx.ModelProto], Judgement]


def run_guarded(
    exact: gs.Graph,
    passes: Sequence[Pass],
    ctx: Context,
    judge: Judge,
    layer_noise: Noise,
    hooks: Sequence[Hook] = (),
    *,
    first: int = 0,
) -> Outcome:
    """Run approximate `passes` on copies of `exact` until the result is within the budget.

    `first` is the place of the first of them in the whole pipeline, for the hooks.

    Raises:
        UsageError: a pass needs what there is not.
        PassError: a pass crashed or broke the model.
    """
    hints = ctx.hints
    ctx.teacher = exact

    def attempt(returned: tuple[Returned, ...]) -> _Attempt:
        if returned:
            ctx.progress(f"{len(returned)} layers back", 0, 0)
        candidate = clone(exact)
        ctx.hints, ctx.unquantized = hints, None  # what passes found out of an earlier attempt
        ctx.returned = frozenset(r.layer for r in returned)
        records = tuple(run_pipeline(candidate, skipping(passes, [r.layer for r in returned]), ctx, hooks, first=first))
        model = to_proto(candidate)
        return _Attempt(returned, candidate, model, records, judge(model), ctx.hints, ctx.unquantized)

    tried = start = attempt(())
    while not tried.holds:
        before = exact if tried.unquantized is None else tried.unquantized  # scaled as the candidate is
        noise = noise_of_records(before, to_proto(before), tried.model, tried.records, layer_noise)
        ways = _more_back(tried.returned, noise, rounded=tried.unquantized is not None)
        if not ways or not any(can_skip(item) for item in passes):
            return Outcome(exact, False, start.records, start.judgement, tried.returned)
        tried = min((attempt(way) for way in ways), key=lambda found: found.rank(ctx))
    ctx.hints, ctx.unquantized = tried.hints, tried.unquantized
    kept = any(record.changes for record in tried.records)
    return Outcome(tried.graph, kept, tried.records, tried.judgement, tried.returned)


@dataclass(frozen=True)
class _Attempt:
    """One run of the passes, with some layers back in float, and what it left in the context."""

    returned: tuple[Returned, ...]
    graph: gs.Graph
    model: onnx.ModelProto
    records: tuple[Record, ...]
    judgement: Judgement
    hints: dict[str, tuple[np.ndarray, np.ndarray]]
    unquantized: gs.Graph | None

    @property
    def holds(self) -> bool:
        """Whether it is within the budget, and not because nothing is left."""
        return self.judgement.problem is None and (not self.returned or _left(self.records))

    def rank(self, ctx: Context) -> tuple[bool, float]:
        """Less is better: what holds comes first, by its price on the target, then what is closest to holding.

        What just holds here may not hold on other images: for each decibel more, one percent of time is given.
        """
        found = math.inf if self.judgement.sqnr_db is None else self.judgement.sqnr_db
        if not self.holds:
            return True, -found
        return False, _WORTH**found * (1.0 if ctx.target is None else Variant(self.graph, ctx.target).cost.latency_ms)


def _more_back(
    returned: tuple[Returned, ...], noise: Sequence[LayerNoise], *, rounded: bool
) -> list[tuple[Returned, ...]]:
    """The layers that are to go back next, besides those that did, in up to two ways."""
    back = {r.layer for r in returned}
    step = max(1, len(returned) // 4)  # one by one at first, so that few go back; faster where many must
    ways: dict[frozenset[str], tuple[Returned, ...]] = {}
    for ranked in (worst(noise), loudest(noise)):
        more = [Returned(n.layer, n.sqnr_db, n.alone, rounded) for n in ranked if n.layer not in back][:step]
        if more:
            ways.setdefault(frozenset(r.layer for r in more), (*returned, *more))
    return list(ways.values())


def skipping(passes: Sequence[Pass], layers: Sequence[str]) -> list[Pass]:
    """The same passes with `layers` added to what they skip."""
    if not layers:
        return list(passes)
    return [replace(p, skip=(*p.skip, *layers)) if can_skip(p) else p for p in passes]  # type: ignore[attr-defined,call-arg]


def _left(records: Sequence[Record]) -> bool:
    """Whether anything is left of what layers go back from; what prepares for it, or goes with it, does not count."""
    rounding = [record for record in records if can_skip(record.item)]
    return any(record.changes for record in rounding or records if record.item.fidelity is not Fidelity.EXACT)
