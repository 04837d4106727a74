"""Running models over data and judging what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.data import Batch, Dataset
from lpcc.errors import DataError, ModelError
from lpcc.quality.classes import Classes, class_outputs
from lpcc.quality.metric import Custom, Metric
from lpcc.quality.tallies import Difference, Hits, Noise, same_choice, scores
from lpcc.runtime import Session, with_outputs
from lpcc.runtime.spec import Array

if TYPE_CHECKING:
    import onnx

CAP_DB = 200.0
"""Decibels beyond which JSON says no more: float32 itself has about 150."""

_MOST_SAMPLES = 16
_BATCH_VALUES = 1 << 19
"""Values that the inputs of a batch may have together, about: a network holds dozens of times as many."""


@dataclass(frozen=True)
class Score:
    """A metric of a model over a data set."""

    metric: str
    value: float
    samples: int


@dataclass(frozen=True)
class Comparison:
    """How close a candidate's outputs are to the reference's, by output name."""

    samples: int
    sqnr_db: dict[str, float]
    """Signal to quantisation noise in dB; inf where equal."""
    cosine: dict[str, float]
    mean_relative_error: dict[str, float]
    max_relative_error: dict[str, float]
    agreements: dict[str, float]
    """Percent of samples, or of pixels, with the same highest score, for outputs that are class scores or maps."""

    @property
    def agreement(self) -> float | None:
        """The least of the agreements in percent; None where no output is class scores."""
        return min(self.agreements.values(), default=None)

    @property
    def worst_sqnr_db(self) -> float:
        """The least SQNR of all outputs in dB; inf where all are equal."""
        return min(self.sqnr_db.values(), default=math.inf)

    @property
    def unscored_sqnr_db(self) -> float:
        """The least SQNR in dB of the outputs that are no class scores; inf where there is none or all are equal."""
        return min((db for name, db in self.sqnr_db.items() if name not in self.agreements), default=math.inf)

    @property
    def worst_relative_error(self) -> float:
        """The largest of the largest errors, relative to the largest value of its output."""
        return max(self.max_relative_error.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values: decibels within +-200, an infinite error as null."""
        return {
            "samples": self.samples,
            "agreement": self.agreement,
            "sqnr_db": {name: max(-CAP_DB, min(CAP_DB, db)) for name, db in self.sqnr_db.items()},
            "cosine": dict(self.cosine),
            "mean_relative_error": {n: _finite(e) for n, e in self.mean_relative_error.items()},
            "max_relative_error": {n: _finite(e) for n, e in self.max_relative_error.items()},
        }


def evaluate(
    model: onnx.ModelProto | bytes | Path | Session,
    dataset: Dataset,
    metric: Metric,
    reference: onnx.ModelProto | bytes | Path | Session | None = None,
    *,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """A model's metric over all samples of a data set.

    `reference` is the original, for metrics that compare with it; give a Session to choose how it runs (a bare model
    runs without onnxruntime's optimisations as a reference, and with them as the model judged). `batch` is by default
    that of `batch_size`, and 16 for a user's metric, which may depend on it. `progress` is told the samples done.
    Raises DataError when the metric does not suit data or model, ModelError when a model cannot run.
    """
    if metric.needs_labels and not dataset.labelled:
        raise DataError(f"{dataset.description}: has no labels, which {metric.name} needs")
    if metric.needs_reference and reference is None:
        raise DataError(f"{metric.name} compares with the original model, which was not given")
    session = model if isinstance(model, Session) else Session(model)
    original = _reference(reference) if metric.needs_reference and reference is not None else None
    tally = metric.start()
    samples = 0
    if batch is None:
        batch = _MOST_SAMPLES if isinstance(metric, Custom) else batch_size(dataset)
    for one in dataset.batches(batch):
        expected = {} if original is None else run(original, one)
        try:
            tally.add(run(session, one), expected, one)
        except DataError as error:
            raise DataError(f"{dataset.description}: {error}") from error
        samples += one.count
        if progress is not None:
            progress(samples)
    return Score(metric.name, tally.value(), samples)


def batch_size(dataset: Dataset) -> int:
    """Samples to run at a time: 16, and fewer of large ones, down to one, that their activations take little memory."""
    one = next(iter(dataset.head(1).batches(1)), None)
    values = 1 if one is None else sum(array.size for array in one.feeds.values())
    return max(1, min(_MOST_SAMPLES, _BATCH_VALUES // max(1, values)))


def compare(
    reference: onnx.ModelProto | bytes | Path | Session,
    candidate: onnx.ModelProto | bytes | Path | Session,
    dataset: Dataset,
    *,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
    classes: Mapping[str, Classes] | None = None,
) -> Comparison:
    """Outputs of two models with the same interface over all samples of a data set.

    A bare reference runs without onnxruntime's optimisations, a bare candidate with them; give Sessions to choose.
    `classes` are the outputs that choose between classes (see `lpcc.quality.classes`); by default those of a reference
    that is a model in memory, else all that have the shape of class scores. Outputs that are no tensors of numbers are
    left out. `progress` is told the samples done. Raises ModelError when the candidate lacks an output or a model
    cannot run.
    """
    original = _reference(reference)
    session = candidate if isinstance(candidate, Session) else Session(candidate)
    names = [spec.name for spec in original.outputs]
    require(names, session)
    if classes is None and not isinstance(reference, (Session, bytes, Path)):
        classes = class_outputs(reference)

    def runs() -> Iterator[tuple[int, Mapping[str, Array], Mapping[str, Array]]]:
        samples = 0
        for one in dataset.batches(batch or batch_size(dataset)):
            yield one.count, run(original, one), run(session, one)
            samples += one.count
            if progress is not None:
                progress(samples)

    return compare_runs(runs(), names, classes)


def compare_runs(
    runs: Iterable[tuple[int, Mapping[str, Array], Mapping[str, Array]]],
    names: Sequence[str],
    classes: Mapping[str, Classes] | None = None,
    *,
    by_margin: bool = False,
) -> Comparison:
    """The named outputs of runs that took place: the number of samples in each, expected values, and those found.

    Outputs that are no tensors of numbers on one side are left out. `classes` are those of `compare`. With `by_margin`
    each choice of a class counts as much towards the agreement as the reference is sure of it (`Classes.margins`).
    """
    differences: dict[str, Difference] = {}
    hits: dict[str, Hits] = {}
    samples = 0
    for count, expected, found in runs:
        for name in names:
            if not _numeric(expected.get(name)) or not _numeric(found.get(name)):
                continue
            differences.setdefault(name, Difference()).add(expected[name], found[name])
            same = _same(expected[name], found[name], None if classes is None else classes.get(name), classes is None)
            if same is not None:
                weights = classes[name].margins(expected[name]) if by_margin and classes is not None else None
                hits.setdefault(name, Hits()).add(same, weights)
        samples += count
    return Comparison(
        samples,
        {name: d.sqnr_db for name, d in differences.items()},
        {name: d.cosine for name, d in differences.items()},
        {name: d.mean_relative_error for name, d in differences.items()},
        {name: d.max_relative_error for name, d in differences.items()},
        {name: h.percent for name, h in hits.items()},
    )


def _same(expected: Array, found: Array, classes: Classes | None, by_shape: bool) -> Array | None:
    """Per sample or pixel, whether both choose the same class; None for an output that is not about classes."""
    if by_shape:
        ours, theirs = scores(expected), scores(found)
        return None if ours is None or theirs is None else same_choice(ours, theirs)
    chosen = None if classes is None else classes.choice(expected)
    if classes is None or chosen is None:
        return None
    other = classes.choice(found) if found.shape == expected.shape else None
    same: Array = np.zeros(len(chosen), bool) if other is None else chosen == other
    return same


def layer_sqnr(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    dataset: Dataset,
    pairs: Mapping[str, str],
    *,
    batch: int = 1,
    optimise: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """SQNR in dB at tensors inside two models, by the reference's name; inf where equal.

    `pairs` maps tensors of the reference to those of the candidate that stand for them; those of another shape there,
    such as those that lost channels, are left out. Both models run with them as further outputs, the candidate with
    onnxruntime's optimisations only if asked for: without them Q/DQ compute in float what integer kernels compute in
    integers, and nothing hinders looking in between. A batch of all those tensors is in memory at a time. Raises
    ModelError when a model makes no such tensor.
    """
    original = Session(with_outputs(reference, pairs), optimise=False)
    session = Session(with_outputs(candidate, pairs.values()), optimise=optimise)
    differences = {name: Noise() for name in pairs}
    samples = 0
    for one in dataset.batches(batch):
        expected = run(original, one, list(pairs))
        found = run(session, one, list(dict.fromkeys(pairs.values())))
        for name, other in pairs.items():
            if name in differences and np.shape(expected[name]) != np.shape(found[other]):
                del differences[name]
            if name in differences:
                differences[name].add(expected[name], found[other])
        samples += one.count
        if progress is not None:
            progress(samples)
    return {name: d.sqnr_db for name, d in differences.items()}


def _reference(model: onnx.ModelProto | bytes | Path | Session) -> Session:
    return model if isinstance(model, Session) else Session(model, optimise=False)


def run(session: Session, batch: Batch, names: list[str] | None = None) -> dict[str, Array]:
    """Outputs of a model for the samples of a batch that count."""
    outputs = session.run(batch.feeds, names)
    return {name: batch.valid(v) if isinstance(v, np.ndarray) else v for name, v in outputs.items()}


def require(names: list[str], session: Session) -> None:
    """Raise ModelError unless a model has the named outputs."""
    have = {spec.name for spec in session.outputs}
    for name in names:
        if name not in have:
            raise ModelError(f"the candidate has no output `{name}`; both models must have the same outputs")


def require_numbers(reference: Session, dataset: Dataset) -> None:
    """Raise ModelError where an output of the original is nothing but NaN, from which nothing could differ.

    The first sample tells.
    """
    for name, value in run(reference, next(iter(dataset.batches(1)))).items():
        if _numeric(value) and value.dtype.kind == "f" and value.size and np.isnan(value).all():
            raise ModelError(
                f"output `{name}` of the original is NaN for the first image: nothing can be judged by it; look for "
                "NaN in its weights and in the images"
            )


def _numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
