"""The compiler from end to end: a model, a target and, where there are some, images go in; a verified model comes out.

    door -> exact passes -> check -> approximate passes under the guard -> does it pay on the target? -> door

The exact passes are those that a pipeline starts with; the first approximate pass and all that follow it run under the
guard, which may run them several times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lpcc.door import files
from lpcc.errors import ModelError
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Context, Fidelity, Need, Pass, Pipeline
from lpcc.pipeline.exactness import check_exact
from lpcc.pipeline.guard import Judgement, Outcome, Returned, run_guarded
from lpcc.pipeline.hooks import Reproduce
from lpcc.pipeline.judge import Budget, ImageJudge
from lpcc.pipeline.pays import Race, race
from lpcc.pipeline.runner import Hook, Record, check_needs, run_pipeline
from lpcc.report.build import build_report
from lpcc.report.model import Kept, Report
from lpcc.target import Target

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.data import Dataset
    from lpcc.runtime import Session

Progress = Callable[[str, int, int], None]

_SYNTHETIC_IMAGES = 64
_CHECKED_SAMPLES = 2
_PLANNED_SAMPLES = 8


@dataclass(frozen=True)
class Result:
    """An optimised model with the report of what was done to it."""

    model: onnx.ModelProto
    report: Report
    _source: Path | None = field(default=None, repr=False)

    def save(self, path: str | Path, *, overwrite_input: bool = False) -> None:
        """Write the model, whole or not at all.

        Raises:
            UsageError: the path cannot be written, or is the input's and `overwrite_input` is not set.
        """
        path = Path(path)
        if not overwrite_input:
            files.refuse_input(path, self._source)
        files.write(self.model, path)


@dataclass
class Job:
    """One compilation under way: what was asked for, and what is known so far."""

    name: str
    source: Path | None
    original: onnx.ModelProto
    file_bytes: int
    graph: gs.Graph
    target: Target
    pipeline: Pipeline
    ctx: Context
    budget: Budget
    reference: Session | None
    hooks: Sequence[Hook] = ()
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def exact_passes(self) -> list[Pass]:
        """The exact passes that the pipeline starts with."""
        return list(takewhile(lambda item: item.fidelity is Fidelity.EXACT, self.pipeline))

    @property
    def guarded_passes(self) -> list[Pass]:
        """The first approximate pass and all after it."""
        return list(self.pipeline)[len(self.exact_passes) :]

    def samples(self) -> Dataset:
        """Images to run the model on: the calibration ones, else made-up ones of the right types and shapes."""
        from lpcc.data import Dataset

        if self.ctx.calibration is not None:
            return self.ctx.calibration
        inputs = () if self.reference is None else self.reference.inputs
        return Dataset.synthetic(inputs, _CHECKED_SAMPLES, self.ctx.seed)

    def feeds(self) -> dict[str, np.ndarray] | None:
        """One sample; None where the model cannot be run."""
        if self.reference is None:
            return None
        return next(iter(self.samples().batches(1))).feeds


@dataclass(frozen=True)
class Decision:
    """Which graph is the result, and why."""

    graph: gs.Graph
    kept: Kept
    met_budget: bool
    reasons: tuple[str, ...]
    records: tuple[Record, ...]
    judgement: Judgement | None = None
    returned: tuple[Returned, ...] = ()
    race: Race | None = None
    """The result against the original on the target."""


def optimize(
    model: str | Path | onnx.ModelProto | gs.Graph,
    *,
    target: str | Path | Target = "host",
    pipeline: str | Pipeline | None = None,
    calib: str | Path | Dataset | None = None,
    eval: str | Path | Dataset | None = None,  # noqa: A002 - the name of the command's option
    preprocess: str | Path | None = None,
    metric: str | None = None,
    max_drop: float = 1.0,
    min_agreement: float | None = None,
    min_sqnr: float | None = None,
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
        calib: unlabelled images: an .npz keyed by input names, a folder, ``module:function`` or a Dataset. Without
            them, approximate passes work on synthesised images.
        eval: labelled images, of the same kinds.
        preprocess: TOML file that says how images become inputs.
        metric: how quality is judged with labels; ``top1`` by default.
        max_drop: how many percentage points the metric may fall, with labels.
        min_agreement: how many percent of the samples must keep their top class, without labels (default 90).
        min_sqnr: how many dB the outputs' SQNR must have, without labels and without classes (default 10).
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
    job = _prepare(model, target, pipeline, calib, eval, preprocess, budget, seed, progress, hooks)
    if reproducers is not None:
        job.hooks = [*hooks, Reproduce(job.graph, list(job.pipeline), job.ctx, Path(reproducers))]
    decision = _decide(job)
    result = to_proto(decision.graph)
    report = build_report(job, decision, result, None if output is None else str(output))
    return Result(result, report, job.source)


def plan(
    model: str | Path | onnx.ModelProto | gs.Graph,
    *,
    target: str | Path | Target = "host",
    pipeline: str | Pipeline | None = None,
    calib: str | Path | Dataset | None = None,
    eval: str | Path | Dataset | None = None,  # noqa: A002
    preprocess: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **ignored: Any,
) -> Report:
    """What `optimize` would do and what the target's cost model predicts of it, judged on nothing and written nowhere.

    Takes the arguments of `optimize`; those that concern quality are `ignored`. Ranges come from a few samples.

    Raises:
        LpccError: as `optimize`.
    """
    del ignored
    budget = Budget.of(None, 100.0, None, None, labelled=False)
    job = _prepare(model, target, pipeline, calib, eval, preprocess, budget, seed, progress, ())
    if job.ctx.calibration is not None:
        job.ctx.calibration = job.ctx.calibration.head(_PLANNED_SAMPLES)
    records = run_pipeline(job.graph, job.exact_passes, job.ctx)
    records += run_pipeline(job.graph, _runnable(job), job.ctx)
    job.notes.append("a plan: nothing was judged or written")
    decision = Decision(job.graph, "optimised", True, (), tuple(records))
    return build_report(job, decision, to_proto(job.graph), None)


def _prepare(
    model: str | Path | onnx.ModelProto | gs.Graph,
    target: str | Path | Target,
    pipeline: str | Pipeline | None,
    calib: str | Path | Dataset | None,
    evaluation: str | Path | Dataset | None,
    preprocess: str | Path | None,
    budget: Budget,
    seed: int,
    progress: Progress | None,
    hooks: Sequence[Hook],
) -> Job:
    """Open everything and check that the pipeline has what it needs, before any work is done."""
    device = target if isinstance(target, Target) else Target.load(target)
    steps = pipeline if isinstance(pipeline, Pipeline) else Pipeline.parse(pipeline or device.pipeline)
    graph, name, source = _open(model)
    original = to_proto(graph)
    ctx = Context(target=device, seed=seed)
    if progress is not None:
        ctx.progress = progress
    notes: list[str] = []
    reference = _reference(original, name, notes)
    size = original.ByteSize()
    if source is not None:
        size = max(size, source.stat().st_size)
    job = Job(name, source, original, size, graph, device, steps, ctx, budget, reference, hooks, notes)
    if reference is not None:
        _open_data(job, reference, calib, evaluation, preprocess)
    if job.guarded_passes and reference is not None:
        check_needs(steps, ctx)
    return job


def _open(model: str | Path | onnx.ModelProto | gs.Graph) -> tuple[gs.Graph, str, Path | None]:
    """The graph, a name for it and the file that it came from."""
    if isinstance(model, (str, Path)):
        return load(model), str(model), Path(model)
    if isinstance(model, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        return from_proto(copied), model.graph.name or "model", None
    return clone(model), model.name or "model", None


def _reference(original: onnx.ModelProto, name: str, notes: list[str]) -> Session | None:
    """The original in onnxruntime without its optimisations; None if it holds operators that onnxruntime lacks.

    Raises:
        ModelError: onnxruntime refuses the model for any other reason.
    """
    from lpcc.runtime import Session

    try:
        return Session(original, optimise=False)
    except ModelError as error:
        custom = sorted({n.domain for n in original.graph.node} - {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
        if not custom:
            raise ModelError(f"{name}: {error}") from error
        notes.append(
            f"not verified: onnxruntime cannot run operators of the domain `{custom[0]}`; only exact passes ran"
        )
        return None


def _open_data(
    job: Job,
    reference: Session,
    calib: str | Path | Dataset | None,
    evaluation: str | Path | Dataset | None,
    preprocess: str | Path | None,
) -> None:
    """Open the images that the user gave; synthesise some where a pass wants images and there are none."""
    from lpcc.data import Dataset

    recipe = None if preprocess is None else Path(preprocess)

    def opened(data: str | Path | Dataset, labels_needed: bool) -> Dataset:
        if isinstance(data, Dataset):
            return data
        return Dataset.open(data, reference.inputs, recipe, labels_needed=labels_needed)

    if calib is not None:
        job.ctx.calibration = opened(calib, False)
    if evaluation is not None:
        from lpcc.quality import parse_metric

        job.ctx.evaluation = opened(evaluation, parse_metric(job.budget.metric or "top1").needs_labels)
    if any(Need.CALIBRATION in item.needs for item in job.pipeline) and calib is None:
        from lpcc.analysis.bn_statistics import bn_statistics

        job.ctx.hints = bn_statistics(job.graph)
        if job.ctx.hints:
            job.ctx.progress("synthesising images", 0, 0)
            job.ctx.calibration = Dataset.synthetic(job.original, _SYNTHETIC_IMAGES, job.ctx.seed)
            job.notes.append("not verified by real data: ranges and quality come from synthesised images; give --calib")
        else:
            job.ctx.calibration = Dataset.synthetic(reference.inputs, _CHECKED_SAMPLES, job.ctx.seed)


def _decide(job: Job) -> Decision:
    """Run the pipeline and choose the result: the guarded graph, the exact graph or the original."""
    records = tuple(run_pipeline(job.graph, job.exact_passes, job.ctx, job.hooks))
    unchecked = check_exact(job.original, job.graph, job.reference, job.samples())
    if unchecked is not None:
        job.notes.append(f"outputs not compared: {unchecked}")
    decision = Decision(job.graph, "optimised", True, (), records)
    passes = _runnable(job)
    if passes:
        judge = ImageJudge(job.original, job.ctx, job.budget)
        outcome = run_guarded(job.graph, passes, job.ctx, judge, judge.layer_noise, job.hooks)
        decision = _after_guard(job.graph, records, outcome)
    if decision.graph is not job.graph:
        pays = race(job.graph, decision.graph, job.target, job.feeds())
        if pays.slower:
            reasons = (*decision.reasons, f"approximate passes taken back: {pays}")
            decision = replace(decision, graph=job.graph, kept="partly", reasons=reasons, returned=())
    return _against_original(job, decision)


def _runnable(job: Job) -> list[Pass]:
    """The guarded passes; none where there is nothing to judge them on."""
    passes = job.guarded_passes
    if not passes or job.reference is None:
        return []
    made_up = job.ctx.calibration is not None and job.ctx.calibration.is_synthetic
    if made_up and not job.ctx.hints and any(Need.CALIBRATION in item.needs for item in passes):
        job.notes.append(
            "stays in float: without images (--calib) and without batch norms, whose statistics would stand in for "
            "them, nobody can tell what quantisation costs"
        )
        return []
    return passes


def _after_guard(exact: gs.Graph, exact_records: tuple[Record, ...], outcome: Outcome) -> Decision:
    records = (*exact_records, *outcome.records)
    judgement = outcome.judgement
    if outcome.kept:
        reasons = tuple(f"`{r.layer}` went back to float: {r.sqnr_db:.1f} dB" for r in outcome.returned)
        kept: Kept = "partly" if outcome.returned else "optimised"
        return Decision(outcome.graph, kept, True, reasons, records, judgement, outcome.returned)
    if judgement.problem is None:
        return Decision(exact, "optimised", True, ("the approximate passes found nothing to do",), records, judgement)
    reason = f"approximate passes taken back: {judgement.problem}, whichever layers stay in float"
    return Decision(exact, "partly", False, (reason,), records, judgement)


def _against_original(job: Job, decision: Decision) -> Decision:
    """The decision, or the original where even the result is slower on the target than the model as it came."""
    original = from_proto(job.original)
    try:
        pays = race(original, decision.graph, job.target, job.feeds())
    except ModelError as error:
        job.notes.append(f"speed not measured: {error}")
        return decision
    if not pays.slower:
        return replace(decision, race=pays)
    reasons = (*decision.reasons, f"everything taken back: {pays}")
    same = replace(pays, after_ms=pays.before_ms, ratio=1.0)
    return replace(decision, graph=original, kept="original", reasons=reasons, returned=(), race=same)
