"""The report of a finished compilation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from lpcc.cost import Cost, LayerCost
from lpcc.pipeline.base import Pass
from lpcc.pipeline.diagnosis import share
from lpcc.pipeline.runner import Record
from lpcc.report.figures import figures_of
from lpcc.report.model import (
    Figures,
    LayerReport,
    PassReport,
    Quality,
    RefusalReport,
    Report,
    Verdict,
    WorstReport,
)
from lpcc.report.versions import versions

if TYPE_CHECKING:
    from lpcc.driver import Decision
    from lpcc.job import Job
    from lpcc.pipeline.guard import Returned
    from lpcc.simulate import Saturation


_FEW = 32
"""Images below which their being the same as those of calibration flatters a result much."""


def build_report(job: Job, decision: Decision, file_bytes: int, output: str | None) -> Report:
    """The report of `job`, which ended in `decision` with a model of `file_bytes`, to be saved as `output`."""
    original, result, race = job.original, decision.result, decision.race
    before = figures_of(original.graph, original.cost, job.file_bytes)
    after = figures_of(result.graph, result.cost, file_bytes)
    if race is not None and race.measured:
        before = _measured(before, race.before_ms)
        after = _measured(after, race.after_ms)
    speedup = None if race is None or race.ratio <= 0 else 1 / race.ratio
    return Report(
        model=job.name,
        output=output,
        target=job.target.name,
        pipeline=str(job.pipeline),
        seed=job.ctx.seed,
        versions=versions(),
        seconds=time.perf_counter() - job.started,
        before=before,
        after=after,
        quality=_quality(job, decision),
        passes=tuple(_passes(decision)),
        layers=tuple(_layers(original.cost, result.cost, decision)),
        verdict=Verdict(
            kept=decision.kept,
            met_budget=decision.met_budget,
            reasons=decision.reasons,
            speedup=speedup,
            measured=race is not None and race.measured,
        ),
        notes=tuple(
            dict.fromkeys(
                [
                    *job.notes,
                    *(note for record in decision.records for note in record.changes.notes),
                    *_few(job, decision),
                    *_saturation(decision),
                    *_assumptions(original.cost, result.cost),
                    *result.cost.warnings,
                ]
            )
        ),
        worst=tuple(_worst(decision)),
    )


def _few(job: Job, decision: Decision) -> Iterator[str]:
    """A warning where few images tell the quality, and passes have worked with the same."""
    judged, seen = decision.judgement, job.ctx.calibration
    if judged is None or job.ctx.evaluation is not None or seen is None or seen.is_synthetic:
        return
    if judged.samples < _FEW:
        images = f"{judged.samples} images" if judged.samples > 1 else "one image"
        yield f"quality is told on {images} that the passes worked with, too: more, or others with --eval, tell more"


def _saturation(decision: Decision) -> Iterator[str]:
    """A warning where layers saturate, and how to avoid it."""
    found = decision.findings.saturated
    if found:
        worst = min(found, key=lambda layer: layer.sqnr_db)
        several = f"{len(found)} layers saturate" if len(found) > 1 else "1 layer saturates"
        yield (
            f"without VNNI {several} in 16-bit sums, `{worst.layer}` most: {share(worst.share)} of its sums, "
            f"{worst.sqnr_db:.1f} dB; weights of 7 bits do not: quantize{{reduce-range=true}}"
        )


def _worst(decision: Decision) -> Iterator[WorstReport]:
    for found in decision.findings.worst:
        noise = found.noise
        yield WorstReport(
            noise.layer, noise.sqnr_db, noise.damage_db, found.cause.kind, found.cause.detail, found.remedy
        )


def _assumptions(before: Cost, after: Cost) -> Iterator[str]:
    """What the predictions assume: of the result, and what holds of the original alone, said to be so."""
    yield from after.assumptions
    yield from (f"of the original: {text}" for text in before.assumptions if text not in after.assumptions)


def _measured(figures: Figures, milliseconds: float) -> Figures:
    """The figures with a measured time, and the energy that goes with it."""
    scale = milliseconds / figures.latency_ms if figures.latency_ms else 1.0
    energy = None if figures.energy_mj is None else figures.energy_mj * scale
    return replace(figures, latency_ms=milliseconds, energy_mj=energy)


def _quality(job: Job, decision: Decision) -> Quality:
    judgement = decision.judgement
    if judgement is None:
        return Quality()
    data = job.ctx.evaluation or job.ctx.calibration
    min_agreement, min_sqnr = job.budget.floors(classes=judgement.agreement is not None)
    return Quality(
        metric=judgement.metric,
        samples=judgement.samples,
        before=judgement.before,
        after=judgement.after,
        drop=judgement.drop,
        agreement=judgement.agreement,
        sqnr_db=judgement.sqnr_db,
        data="none" if data is None else "synthetic" if data.is_synthetic else "real",
        max_drop=job.budget.max_drop,
        min_agreement=min_agreement,
        min_sqnr=min_sqnr,
        emulated=job.kernels,
    )


def _passes(decision: Decision) -> Iterator[PassReport]:
    for place, record in enumerate(decision.records):
        yield _pass(record, taken_back=decision.undone is not None and place >= decision.undone)


def _pass(record: Record, *, taken_back: bool) -> PassReport:
    return PassReport(
        name=record.item.name,
        options=_options(record.item),
        seconds=record.seconds,
        counts=record.changes.counts,
        refused=tuple(RefusalReport(refusal.node, refusal.reason) for refusal in record.changes.refused),
        taken_back=taken_back and bool(record.changes),
    )


def _options(item: Pass) -> dict[str, Any]:
    values = {option.name.replace("_", "-"): getattr(item, option.name) for option in fields(item)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _layers(before: Cost, after: Cost, decision: Decision) -> Iterator[LayerReport]:
    """The layers of the result, each beside the layer of the original that has a node of that name."""
    origin: dict[str, LayerCost] = {name: layer for layer in before.layers for name in layer.nodes}
    returned = {r.layer: r for r in decision.returned}
    noise = {found.layer: found for found in decision.findings.noise if not found.alone}
    saturated = {found.layer: found for found in decision.findings.saturated}
    for layer in after.layers:
        names = (layer.name, *layer.nodes)
        source = next((origin[name] for name in names if name in origin), None)
        lost = returned.get(layer.name)
        noisy = next((noise[name] for name in reversed(names) if name in noise), None)
        own = max((noise[name].damage_db for name in names if name in noise), default=None)
        cut = next((saturated[name] for name in names if name in saturated), None)
        yield LayerReport(
            name=layer.name,
            op=layer.op,
            dtype_before=None if source is None else source.dtype,
            dtype_after=layer.dtype,
            sqnr_db=None if noisy is None else noisy.sqnr_db,
            macs=layer.macs,
            latency_ms_before=None if source is None else source.latency_ms,
            latency_ms_after=layer.latency_ms,
            note=_note(lost, cut),
            damage_db=own,
            saturated=None if cut is None else cut.share,
            saturated_db=None if cut is None else cut.sqnr_db,
        )


def _note(lost: Returned | None, cut: Saturation | None) -> str:
    if lost is not None:
        return f"{'float' if lost.rounded and not lost.alone else 'whole'}: went back, {lost.sqnr_db:.1f} dB"
    return "" if cut is None else f"saturates: {share(cut.share)} of its sums, {cut.sqnr_db:.1f} dB"
