"""What one compilation was asked for, opened and checked before any work is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx

from lpcc import edit
from lpcc.analysis.bounds import limited
from lpcc.analysis.types import annotate
from lpcc.errors import DataError, ModelError, UsageError
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Context, Fidelity, Need, Pass, Pipeline
from lpcc.pipeline.judge import Budget
from lpcc.pipeline.runner import check_needs, run_pipeline
from lpcc.pipeline.variant import Variant
from lpcc.report.figures import stored_bytes
from lpcc.target import Target

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.data import Dataset
    from lpcc.runtime import Session
    from lpcc.simulate import Kernels

_SYNTHETIC_IMAGES = 64
_CHECKED_SAMPLES = 2
_RUNTIME_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}

Model: TypeAlias = "str | Path | onnx.ModelProto | gs.Graph"
Images: TypeAlias = "str | Path | Mapping[str, np.ndarray] | Dataset"


@dataclass
class Job:
    """One compilation under way.

    `graph` is the one that passes rewrite, `original` the model as it came. `reference` runs the original in
    onnxruntime with optimisations off; None where onnxruntime lacks some of its operators. `only_exact`: the other
    passes cannot run, as nobody can tell what they cost. `notes` go into the report.
    """

    name: str
    source: Path | None
    graph: gs.Graph
    original: Variant
    target: Target
    pipeline: Pipeline
    ctx: Context
    budget: Budget
    reference: Session | None
    only_exact: bool
    kernels: Kernels | None = None
    """Whose integer kernels results are judged by; None: those of this machine."""
    has_grounds: bool = False
    """Whether made-up images stand in for real ones with reason: the network tells what those are like."""
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

    @property
    def file_bytes(self) -> int:
        """Size of the model as it came, with its external data."""
        if self.source is None:
            return int(self.original.model.ByteSize())
        return stored_bytes(self.source, self.original.cost.weight_bytes)

    @cached_property
    def samples(self) -> Dataset | None:
        """Images to run the model on: the calibration ones, else made-up ones of the right types and shapes.

        None where the model cannot be run, or takes what cannot be made up, such as text.
        """
        from lpcc.data import Dataset

        if self.ctx.calibration is not None or self.reference is None:
            return self.ctx.calibration
        try:
            return Dataset.synthetic(self.reference.inputs, _CHECKED_SAMPLES, self.ctx.seed)
        except DataError:
            return None

    def feeds(self) -> dict[str, np.ndarray] | None:
        """One sample; None where the model cannot be run."""
        return None if self.samples is None else next(iter(self.samples.batches(1))).feeds


def open_job(
    model: Model,
    device: Target,
    steps: Pipeline,
    calib: Images | None,
    evaluation: Images | None,
    training: Images | None,
    preprocess: str | Path | None,
    budget: Budget,
    ctx: Context,
    emulate: str | None = None,
) -> Job:
    """Open everything that a compilation needs, and check that its passes have what they need.

    Raises:
        LpccError: see `lpcc.driver.optimize`.
    """
    ctx.target = device
    graph, name, source = open_model(model)
    original = Variant(clone(graph), device)
    notes: list[str] = []
    reference = _reference(original.model, name, notes)
    annotate(original.graph)  # now that its ONNX form, which keeps the types that the model states, is made
    judged_by = _kernels(device, emulate)
    only_exact = reference is None
    job = Job(
        name, source, graph, original, device, steps, ctx, budget, reference, only_exact, kernels=judged_by, notes=notes
    )
    judging = (evaluation, emulate, budget.metric, budget.min_agreement, budget.min_sqnr)
    if not job.guarded_passes and any(asked is not None for asked in judging):
        notes.append(
            "all passes of the pipeline are exact: there is nothing to judge, on labelled images or by a budget"
        )
    if reference is not None:
        _check_floors(budget, original.model)
        _open_data(job, reference, calib, evaluation, training, preprocess)
        job.graph.sizes = original.graph.sizes = _sizes(job)
    if not job.only_exact:
        check_needs(job.guarded_passes, ctx)
    return job


def _check_floors(budget: Budget, original: onnx.ModelProto) -> None:
    """Raise UsageError for a floor that no output of the model can be held to."""
    from lpcc.quality import class_outputs

    if budget.min_agreement is not None and not class_outputs(original):
        raise UsageError(
            f"--min-agreement {budget.min_agreement:g}: no output of the model is about classes that could agree: give "
            "--min-sqnr"
        )


def _kernels(target: Target, emulate: str | None) -> Kernels | None:
    """Whose kernels to judge by: those asked for, else the target's. None: just run it here."""
    from lpcc.simulate import kernels_here, kernels_named, kernels_of

    if emulate is not None:
        return kernels_named(emulate)
    asked = kernels_of(target)
    return asked if asked != kernels_here() or asked == "x86-novnni" else None


def open_model(model: Model) -> tuple[gs.Graph, str, Path | None]:
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
        foreign = sorted({node.domain for node in original.graph.node} - _RUNTIME_DOMAINS)
        if not foreign:
            raise ModelError(f"{name}: {error}") from error
        notes.append(f"not verified: onnxruntime lacks the operators of domain `{foreign[0]}`; only exact passes ran")
        return None


def _open_data(
    job: Job,
    reference: Session,
    calib: Images | None,
    evaluation: Images | None,
    training: Images | None,
    preprocess: str | Path | None,
) -> None:
    """Open the images that the user gave; synthesise some where a pass wants images and there are none."""
    from lpcc.data import Dataset
    from lpcc.quality import parse_metric

    recipe = None if preprocess is None else Path(preprocess)

    def opened(data: Images, labels_needed: bool) -> Dataset:
        if isinstance(data, Dataset):
            return data.serving(reference.inputs)
        return Dataset.open(data, reference.inputs, recipe, labels_needed=labels_needed)

    if calib is not None:
        job.ctx.calibration = opened(calib, labels_needed=False)
    if evaluation is not None:
        metric = parse_metric(job.budget.metric or "top1")
        job.ctx.evaluation = opened(evaluation, labels_needed=metric.needs_labels)
    if training is not None:
        job.ctx.training = opened(training, labels_needed=False)
        if not any(Need.TRAINING in item.required for item in job.pipeline):
            job.notes.append("no pass of the pipeline trains: --train has no effect")
    wanted = any(Need.CALIBRATION in item.required for item in job.pipeline)
    if calib is None and (wanted or (job.guarded_passes and evaluation is None)):
        _make_up_images(job, reference, recipe)


def _sizes(job: Job) -> dict[str, int]:
    """Sizes of the dimensions that the model leaves open, in the first sample of the user's; none for that of samples.

    By place: ``images[2]``. Without data nothing is known.
    """
    given = (job.ctx.calibration, job.ctx.evaluation, job.ctx.training)
    data = next((found for found in given if found is not None and not found.is_synthetic), None)
    if data is None:
        return {}
    feeds = next(iter(data.batches(1))).feeds
    first = 1 if data.sampled else 0
    return {
        f"{tensor.name}[{axis}]": feeds[tensor.name].shape[axis]
        for tensor in job.graph.inputs
        if tensor.name in feeds and tensor.shape is not None
        for axis, dim in enumerate(tensor.shape)
        if axis >= first and not isinstance(dim, int)
    }


def _make_up_images(job: Job, reference: Session, recipe: Path | None) -> None:
    """Images that the network takes for those that it was trained on, as far as it tells; mere noise where it does not.

    Batch norms tell most. Where they are folded away, activations with two limits tell their own ranges, and how large
    the numbers in images may be.
    """
    from lpcc.analysis.bn_statistics import bn_statistics
    from lpcc.data import Dataset

    job.ctx.hints = bn_statistics(job.graph)
    try:
        limits, model = ({}, job.original.model) if job.ctx.hints else _limited(job)
        if not job.ctx.hints and not limits:
            job.ctx.calibration = Dataset.synthetic(reference.inputs, _CHECKED_SAMPLES, job.ctx.seed)
            return
        job.has_grounds = True
        job.ctx.progress("synthesising images", 0, 0)
        job.ctx.calibration = Dataset.synthetic(
            model, _SYNTHETIC_IMAGES, job.ctx.seed, preprocess=recipe, limits=limits
        )
    except DataError as error:
        job.only_exact = True
        job.notes.append(f"only exact passes ran: {error}")
        return
    job.notes.append(
        "not verified by real data: ranges and quality come from synthesised images; give --calib. "
        "The more the original is sure of an image's class, the more that counts for the agreement"
    )
    if limits and recipe is None:
        job.notes.append(
            f"no batch norms tell what images look like: taken for {job.ctx.calibration.description}; "
            "state it with --preprocess"
        )


def _limited(job: Job) -> tuple[dict[str, tuple[float, float]], onnx.ModelProto]:
    """The activations with two limits in the exact graph, if they follow half of its convolutions, and its model."""
    exact = clone(job.graph)
    run_pipeline(exact, job.exact_passes, Context(target=job.target))
    found = limited(exact)
    convolutions = sum(edit.op(node) == "Conv" for node in exact.nodes)
    return (found if found and 2 * len(found) >= convolutions else {}), to_proto(exact)
