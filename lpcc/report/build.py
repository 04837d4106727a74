"""The report of a finished compilation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import onnx

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel, LayerCost
from lpcc.graph import clone, from_proto
from lpcc.pipeline.base import Pass
from lpcc.pipeline.runner import Record
from lpcc.report.figures import figures_of
from lpcc.report.model import Figures, LayerReport, PassReport, Quality, RefusalReport, Report, Verdict
from lpcc.report.versions import versions

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.driver import Decision, Job


def build_report(job: Job, decision: Decision, result: onnx.ModelProto, output: str | None) -> Report:
    """The report of `job`, which ended in `decision` with the model `result`, to be saved as `output`."""
    model = CostModel(job.target)
    before_graph, after_graph = from_proto(job.original), clone(decision.graph)
    costs = [_estimate(model, graph) for graph in (before_graph, after_graph)]
    before = figures_of(before_graph, costs[0], job.file_bytes)
    after = figures_of(after_graph, costs[1], result.ByteSize())
    race = decision.race
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
        passes=tuple(_pass(record) for record in decision.records),
        layers=tuple(_layers(costs[0], costs[1], {r.layer: r.sqnr_db for r in decision.returned})),
        verdict=Verdict(
            kept=decision.kept,
            met_budget=decision.met_budget,
            reasons=decision.reasons,
            speedup=speedup,
            measured=race is not None and race.measured,
        ),
        notes=tuple(dict.fromkeys([*job.notes, *costs[0].assumptions, *costs[1].warnings])),
    )


def _estimate(model: CostModel, graph: gs.Graph) -> Cost:
    annotate(graph)
    return model.estimate(graph)


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
        min_agreement=job.budget.min_agreement,
        min_sqnr=job.budget.min_sqnr,
    )


def _pass(record: Record) -> PassReport:
    return PassReport(
        name=record.item.name,
        options=_options(record.item),
        seconds=record.seconds,
        counts=record.changes.counts,
        refused=tuple(RefusalReport(refusal.node, refusal.reason) for refusal in record.changes.refused),
    )


def _options(item: Pass) -> dict[str, Any]:
    values = {option.name.replace("_", "-"): getattr(item, option.name) for option in fields(item)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _layers(before: Cost, after: Cost, returned: Mapping[str, float]) -> Sequence[LayerReport]:
    """The layers of the result, each beside the layer of the original that has a node of that name."""
    origin: dict[str, LayerCost] = {name: layer for layer in before.layers for name in layer.nodes}
    reports = []
    for layer in after.layers:
        source = next((origin[name] for name in (layer.name, *layer.nodes) if name in origin), None)
        lost = returned.get(layer.name)
        reports.append(
            LayerReport(
                name=layer.name,
                op=layer.op,
                dtype_before=None if source is None else source.dtype,
                dtype_after=layer.dtype,
                sqnr_db=None,
                macs=layer.macs,
                latency_ms_before=None if source is None else source.latency_ms,
                latency_ms_after=layer.latency_ms,
                note="" if lost is None else f"float: went back, {lost:.1f} dB",
            )
        )
    return reports
