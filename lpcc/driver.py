"""The compiler from end to end: a model, a target and, where there are some, images go in; a verified model comes out.

    door -> exact passes -> check -> approximate passes under the guard -> does it pay on the target? -> door

The exact passes are those that a pipeline starts with; the first approximate pass and all that follow it run under the
guard, which may run them several times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from lpcc.analysis.runtimes import runtime_of
from lpcc.door import files
from lpcc.errors import ModelError
from lpcc.graph import clone
from lpcc.job import Images, Job, Model, open_job
from lpcc.pipeline import Context, Fidelity, Pass, Pipeline
from lpcc.pipeline.diagnosis import Findings, diagnose
from lpcc.pipeline.exactness import check_exact
from lpcc.pipeline.guard import Judgement, Returned, run_guarded
from lpcc.pipeline.hooks import Reproduce
from lpcc.pipeline.judge import Budget, ImageJudge
from lpcc.pipeline.layers import can_skip
from lpcc.pipeline.noise import noise_of_records
from lpcc.pipeline.pays import Race, race
from lpcc.pipeline.preset import pipeline_for
from lpcc.pipeline.runner import Hook, Record, run_pipeline
from lpcc.pipeline.variant import Variant
from lpcc.report.build import build_report
from lpcc.report.model import Kept, Report
from lpcc.target import Target

Progress = Callable[[str, int, int], None]

_PLANNED_SAMPLES = 8


@dataclass(frozen=True)
class Result:
    """An optimised model with the report of what was done to it."""

    model: onnx.ModelProto
    report: Report
    _sources: frozenset[Path] = field(default=frozenset(), repr=False)

    def save(self, path: str | Path, *, overwrite_input: bool = False) -> None:
        """Write the model, whole or not at all.

        Raises:
            UsageError: the path cannot be written, or is the input's and `overwrite_input` is not set.
        """
        path = Path(path)
        if not overwrite_input:
            files.refuse_input(path, *self._sources)
        files.write(self.model, path)


@dataclass(frozen=True)
class Decision:
    """Which variant is the result, and why."""

    result: Variant
    kept: Kept
    met_budget: bool
    reasons: tuple[str, ...]
    records: tuple[Record, ...]
    judgement: Judgement | None = None
    returned: tuple[Returned, ...] = ()
    race: Race | None = None
    """The result against the original on the target."""
    undone: int | None = None
    """Place of the first of the records whose rewrites were taken back, with all after it; None where none were."""
    findings: Findings = field(default_factory=Findings)
    """Of the layers of the result."""


def optimize(
    model: Model,
    *,
    target: str | Path | Target = "host",
    pipeline: str | Pipeline | None = None,
    preset: str | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    calib: Images | None = None,
    eval: Images | None = None,  # noqa: A002 - the name of the command's option
    train: Images | None = None,
    preprocess: str | Path | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    min_sqnr: float | None = None,
    emulate: str | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    progress: Progress | None = None,
    hooks: Sequence[Hook] = (),
    reproducers: str | Path | None = None,
) -> Result:
    """Optimise a model for a target within an accuracy budget.

    Args:
        model: a path, a model in memory or a graph.
        target: name or TOML file of the device; ``host`` is this machine, where speed is measured, not predicted.
        pipeline: passes in text form; the target's own by default.
        preset: ``fast`` or ``accurate``: the target's own pipeline with the passes of that name in place of its
            ``quantize``.
        keep: layers that stay in float, by the names of their nodes, with ``*`` and ``?`` as wildcards.
        only: where given, the only layers that do not.
        calib: unlabelled images: an .npz keyed by input names, arrays in memory by those names, a folder,
            ``module:function`` or a Dataset. Without them, approximate passes work on synthesised images.
        eval: labelled images, of the same kinds.
        train: images for passes that train, of the same kinds; labels are not needed.
        preprocess: TOML file that says how images become inputs.
        metric: how quality is judged with labels; ``top1`` by default.
        max_drop: how many percentage points the metric may fall; with labels 1 by default, without them an error.
        min_agreement: how many percent of the samples must keep their top class; without labels 90 by default.
        min_sqnr: how many dB the outputs' SQNR must have; by default 15 for outputs that are no classes, 16 on
            calibration images, which flatter.
        emulate: whose integer kernels quality is judged by: ``arm``, ``x86-novnni`` or ``x86-vnni``; by default those
            that run on the target.
        seed: of all that is random.
        output: where the caller will save the model; only named in the report.
        progress: called with a description, the steps done and the total (0 where unknown).
        hooks: watch the passes; see `lpcc.pipeline.hooks`.
        reproducers: folder for the reproducer of a failing pass; none is written without.

    Returns:
        The model and its report. A budget that cannot be met does not raise: the best model within it is the result,
        possibly the original, and ``report.verdict.met_budget`` is false.

    Raises:
        ModelError: the model is refused.
        DataError: the images are refused.
        UsageError: the target, pipeline or an option is wrong, or a pass needs what there is not.
        PassError: a pass failed, or an exact one changed the outputs.
    """
    budget = Budget.of(metric, max_drop, min_agreement, min_sqnr, labelled=eval is not None)
    device, steps = _asked(target, pipeline, preset, keep, only)
    job = open_job(model, device, steps, calib, eval, train, preprocess, budget, _context(seed, progress), emulate)
    if reproducers is not None:
        hooks = [*hooks, Reproduce(job.graph, list(job.pipeline), job.ctx, Path(reproducers))]
    decision = _decide(job, hooks)
    result = _without_inferred_types(decision.result.model, job.original.model)
    report = build_report(job, decision, result.ByteSize(), None if output is None else str(output))
    return Result(result, report, job.graph.__dict__.get("sources", frozenset()))


def plan(
    model: Model,
    *,
    target: str | Path | Target = "host",
    pipeline: str | Pipeline | None = None,
    preset: str | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    calib: Images | None = None,
    eval: Images | None = None,  # noqa: A002
    train: Images | None = None,
    preprocess: str | Path | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    min_sqnr: float | None = None,
    emulate: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """What `optimize` would do and what the target's cost model predicts of it, judged on nothing and written nowhere.

    Takes those arguments of `optimize` that say what to do; the budget is checked and not held. Ranges come from a few
    samples.

    Raises:
        LpccError: as `optimize`.
    """
    Budget.of(metric, max_drop, min_agreement, min_sqnr, labelled=eval is not None)
    budget = Budget.of(None, None, None, None, labelled=False)
    device, steps = _asked(target, pipeline, preset, keep, only)
    job = open_job(model, device, steps, calib, eval, train, preprocess, budget, _context(seed, progress), emulate)
    if job.ctx.calibration is not None:
        job.ctx.calibration = job.ctx.calibration.head(_PLANNED_SAMPLES)
    records = run_pipeline(job.graph, job.exact_passes, job.ctx)
    exact = Variant(clone(job.graph), job.target)
    records += run_pipeline(job.graph, _runnable(job), job.ctx)
    job.notes.append("a plan: nothing was judged or written")
    decision = Decision(Variant(job.graph, job.target), "optimised", True, (), tuple(records))
    decision = _against_exact(exact, decision, None, len(job.exact_passes))
    result = decision.result
    decision = replace(decision, race=race(job.original, result, None))
    return build_report(job, decision, result.model.ByteSize(), None)


def _asked(
    target: str | Path | Target,
    pipeline: str | Pipeline | None,
    preset: str | None,
    keep: Sequence[str],
    only: Sequence[str],
) -> tuple[Target, Pipeline]:
    device = target if isinstance(target, Target) else Target.load(target)
    return device, pipeline_for(device, pipeline, preset, keep, only)


def _context(seed: int, progress: Progress | None) -> Context:
    return Context(seed=seed) if progress is None else Context(seed=seed, progress=progress)


def _decide(job: Job, hooks: Sequence[Hook]) -> Decision:
    """Run the pipeline and choose the result: the guarded graph, the exact graph or the original."""
    records = tuple(run_pipeline(job.graph, job.exact_passes, job.ctx, hooks))
    exact = Variant(job.graph, job.target)
    unchecked = check_exact(job.original, exact, job.reference, job.samples)
    if unchecked is not None:
        job.notes.append(f"outputs not compared: {unchecked}")
    decision = Decision(exact, "optimised", True, (), records)
    passes = _runnable(job)
    if not passes:
        return _against_original(job, decision)
    judge = ImageJudge(job.original.model, job.ctx, job.budget, job.kernels)
    decision = _guarded(job, exact, passes, judge, hooks, records)
    judged = decision.result
    if decision.result is not exact:
        decision = _against_exact(exact, decision, job.feeds(), len(job.exact_passes))
    decision = _against_original(job, decision)
    if decision.result is not judged:
        return replace(decision, judgement=judge(decision.result.model))  # of what is handed out, not of what was tried
    return decision if decision.result is exact else replace(decision, findings=_findings(job, exact, decision, judge))


def _runnable(job: Job) -> list[Pass]:
    """The guarded passes; none where there is nothing to judge them on."""
    passes = job.guarded_passes
    if not passes or job.only_exact:
        return []
    made_up = job.ctx.calibration is not None and job.ctx.calibration.is_synthetic
    if made_up and not job.has_grounds:
        left_out = ", ".join(dict.fromkeys(item.name for item in passes if item.fidelity is not Fidelity.EXACT))
        job.notes.append(
            f"stays in float, and nothing is done by {left_out}: without images (--calib), and without batch norms or "
            "limited activations, whose ranges would stand in for them, nobody can tell what approximate passes cost"
        )
        return []
    return passes


def _guarded(
    job: Job,
    exact: Variant,
    passes: Sequence[Pass],
    judge: ImageJudge,
    hooks: Sequence[Hook],
    exact_records: tuple[Record, ...],
) -> Decision:
    """Run the approximate passes under the guard and say what came of it."""
    first = len(job.exact_passes)
    outcome = run_guarded(exact.graph, passes, job.ctx, judge, judge.layer_noise, hooks, first=first)
    records = (*exact_records, *outcome.records)
    judgement = outcome.judgement
    if outcome.kept:
        reasons = tuple(str(found) for found in outcome.returned)
        kept: Kept = "partly" if outcome.returned else "optimised"
        result = Variant(outcome.graph, job.target)
        return Decision(result, kept, True, reasons, records, judgement, outcome.returned)
    if judgement.problem is None:
        reason = _why_idle(outcome.records, exact)
        return Decision(exact, "optimised", True, (reason,), records, judgement)
    reason = f"approximate passes taken back: {judgement.problem}, whichever layers go back"
    return Decision(exact, "partly", False, (reason,), records, judge(exact.model), undone=first)


def _why_idle(records: Sequence[Record], exact: Variant) -> str:
    """What to say of passes that changed nothing; why, where they left the model alone as a whole."""
    whole = exact.graph.name or "graph"
    rounding = [record for record in records if can_skip(record.item)]  # what prepares for them says little
    why = [found.reason for record in rounding for found in record.changes.refused if found.node == whole]
    return f"the approximate passes found nothing to do{f': {why[0]}' if why else ''}"


def _findings(job: Job, exact: Variant, decision: Decision, judge: ImageJudge) -> Findings:
    """What there is to say of the layers that the approximate passes touched."""
    guarded = decision.records[len(job.exact_passes) :]
    rounded = job.ctx.unquantized  # with the scales that its tensors have in the result
    before = exact if rounded is None else Variant(rounded, job.target)
    result = decision.result
    noise = noise_of_records(before.graph, before.model, result.model, guarded, judge.layer_noise)
    saturated = judge.saturation(result.model)
    ran = {record.item.name for record in guarded}
    wide = runtime_of(job.target.runtime, job.target.isa).integer_rules().wide
    worst = diagnose(before.graph, result.graph, noise, judge.few, ran, saturated, wide)
    return Findings(tuple(noise), tuple(worst), tuple(saturated))


def _against_exact(exact: Variant, decision: Decision, feeds: Mapping[str, np.ndarray] | None, first: int) -> Decision:
    """The decision, or the exact graph where what the approximate passes made of it is no faster.

    `first` is the place of their first record. Those that are for size pay where the result is not slower.
    """
    against_exact = race(exact, decision.result, feeds)
    changed = [record.item for record in decision.records[first:] if record.changes]
    if against_exact.pays or (not against_exact.slower and all(item.for_size for item in changed)):
        return decision
    reasons = (*decision.reasons, f"approximate passes taken back: {against_exact}")
    return replace(decision, result=exact, kept="partly", reasons=reasons, returned=(), undone=first)


def _against_original(job: Job, decision: Decision) -> Decision:
    """The decision, or the original where even the result is slower on the target than the model as it came."""
    try:
        pays = race(job.original, decision.result, job.feeds())
    except ModelError as error:
        job.notes.append(f"speed not measured: {error}")
        return decision
    changed = any(record.changes for record in decision.records)  # else there is nothing but noise to be slower
    if not (pays.slower and changed):
        return replace(decision, race=pays)
    reasons = (*decision.reasons, f"everything taken back: {pays}")
    same = replace(pays, after_ms=pays.before_ms, ratio=1.0)
    return replace(decision, result=job.original, kept="original", reasons=reasons, returned=(), race=same, undone=0)


def _without_inferred_types(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the types of tensors that the original did not state; runtimes infer them."""
    stated = {info.name for info in original.graph.value_info}
    kept = [info for info in model.graph.value_info if info.name in stated]
    lean = onnx.ModelProto()
    lean.CopyFrom(model)
    del lean.graph.value_info[:]
    lean.graph.value_info.extend(kept)
    return lean
