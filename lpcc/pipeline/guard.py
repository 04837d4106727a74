"""The guard: what the approximate passes made must be within the budget, or layers go back to float, worst first.

The exact graph is kept. Each attempt runs the approximate passes on a fresh copy of it and judges the result. Where the
budget does not hold, the layers that do the most damage of their own are added to the passes' `skip`, and the next
attempt starts; calibration is not repeated. If the budget does not hold with all layers back, the passes are
taken back as a whole, and the exact graph is the result.

The damage of a layer is the fall of the signal-to-quantisation-noise ratio from its best-kept input to its output: a
layer that merely hands on the noise of earlier ones does none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import onnx

from lpcc import edit
from lpcc.graph import clone, to_proto
from lpcc.pipeline.base import Fidelity, Pass
from lpcc.pipeline.context import Context
from lpcc.pipeline.runner import Hook, Record, run_pipeline

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_CLEAN_DB = 60.0
"""SQNR above which a tensor counts as untouched; caps the damage of the first layer."""


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
    """A layer that went back to float, and the SQNR of its output in dB that it had before."""

    layer: str
    sqnr_db: float


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
LayerNoise = Callable[[onnx.ModelProto, onnx.ModelProto, Sequence[str]], Mapping[str, float]]
"""From the exact model, the candidate and names of tensors that both have, to the SQNR of each in dB."""


def run_guarded(
    exact: gs.Graph,
    passes: Sequence[Pass],
    ctx: Context,
    judge: Judge,
    layer_noise: LayerNoise,
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
    returned: list[Returned] = []
    attempt: tuple[tuple[Record, ...], Judgement] | None = None
    reference = to_proto(exact)
    while True:
        candidate = clone(exact)
        records = tuple(run_pipeline(candidate, skipping(passes, [r.layer for r in returned]), ctx, hooks, first=first))
        model = to_proto(candidate)
        judgement = judge(model)
        attempt = attempt or (records, judgement)
        rounded = any(r.changes for r in records if r.item.fidelity is not Fidelity.EXACT)
        if judgement.problem is None and (rounded or not returned):
            return Outcome(candidate, any(r.changes for r in records), records, judgement, tuple(returned))
        back = {r.layer for r in returned}
        worst = [r for r in _worst_layers(exact, reference, model, records, layer_noise) if r.layer not in back]
        if not worst or not any(_can_skip(item) for item in passes):
            return Outcome(exact, False, *attempt, tuple(returned))
        step = max(1, len(returned) // 4)  # one by one at first, so that few go back; faster where many must
        returned += worst[:step]
        ctx.progress(f"{len(returned)} layers back to float", 0, 0)


def skipping(passes: Sequence[Pass], layers: Sequence[str]) -> list[Pass]:
    """The same passes with `layers` added to what they skip."""
    if not layers:
        return list(passes)
    return [replace(p, skip=(*p.skip, *layers)) if _can_skip(p) else p for p in passes]  # type: ignore[attr-defined,call-arg]


def _can_skip(item: Pass) -> bool:
    return any(option.name == "skip" for option in fields(item))


def _worst_layers(
    exact: gs.Graph,
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    records: Sequence[Record],
    layer_noise: LayerNoise,
) -> list[Returned]:
    """The layers that the passes touched, those that damage most first."""
    touched = {rewrite.node for record in records for rewrite in record.changes.rewrites}
    layers = [node for node in exact.nodes if edit.label(node) in touched]
    made = {name for node in candidate.graph.node for name in node.output}
    wanted = {t.name for node in layers for t in [*node.inputs, *node.outputs] if t.name in made and t.inputs}
    noise = layer_noise(reference, candidate, sorted(wanted)) if wanted else {}
    ranked = []
    for place, node in enumerate(layers):
        after = min((noise[t.name] for t in node.outputs if t.name in noise), default=None)
        if after is None:
            continue
        before = min((noise[t.name] for t in node.inputs if t.name in noise), default=_CLEAN_DB)
        damage = min(before, _CLEAN_DB) - min(after, _CLEAN_DB)
        ranked.append((-damage, place, Returned(edit.label(node), after)))
    return [returned for _, _, returned in sorted(ranked, key=lambda entry: entry[:2])]
