"""Judging a result against the original: the budget, and the images that it is measured on."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import onnx

from lpcc.errors import DataError, ModelError, PassError, UsageError
from lpcc.pipeline.guard import Judgement

if TYPE_CHECKING:
    from lpcc.data import Dataset
    from lpcc.pipeline.context import Context
    from lpcc.quality import Comparison, Expected, Metric
    from lpcc.runtime import Session
    from lpcc.simulate import Kernels, Saturation

DEFAULT_DROP = 1.0
DEFAULT_AGREEMENT = 90.0
DEFAULT_SQNR_DB = 15.0
_SEEN_DB = 1.0
"""By how much images that ranges were chosen on may flatter: 0.3 to 1.2 dB on FastestDet and MobileNetV2."""

_COMPARED_SAMPLES = 256
_LAYER_SAMPLES = 16


@dataclass(frozen=True)
class Budget:
    """How much worse a result may be.

    `max_drop` counts in the unit of the metric, percentage points for accuracies; None without labels, and for metrics
    that compare with the original. `min_agreement`, in percent of the samples, is a floor for models that give class
    scores, `min_sqnr`, in dB, one for all models. A floor of None was not asked for; where there is no `max_drop`
    defaults take its place: 90 % for models that give class scores, and for outputs that are none, such as boxes,
    `default_sqnr` dB: 15 on images that are only for judging, 16 on those that ranges were chosen on, which flatter.
    """

    metric: str | None
    max_drop: float | None
    min_agreement: float | None
    min_sqnr: float | None
    default_sqnr: float = DEFAULT_SQNR_DB

    @classmethod
    def of(
        cls,
        metric: str | None,
        max_drop: float | None,
        min_agreement: float | None,
        min_sqnr: float | None,
        *,
        labelled: bool,
    ) -> Budget:
        """The budget with what the user left open, as None, filled in; `labelled`: there are images only to judge on.

        A metric that has no value for the original itself cannot fall: then the floors are the budget.

        Raises:
            UsageError: a number is out of its range, would have no effect, or there is no such metric.
        """
        from lpcc.quality import parse_metric

        name = metric or ("top1" if labelled else None)
        falls = name is not None and not parse_metric(name).needs_reference
        if max_drop is not None:
            _check_drop(max_drop, name, falls=falls)
        if min_agreement is not None and not 0 <= min_agreement <= 100:
            raise UsageError(f"--min-agreement takes percent between 0 and 100, not {min_agreement:g}")
        if min_sqnr is not None and not math.isfinite(min_sqnr):
            raise UsageError(f"--min-sqnr takes a finite number of decibels, not {min_sqnr:g}")
        drop = DEFAULT_DROP if max_drop is None else max_drop
        least = DEFAULT_SQNR_DB if labelled else DEFAULT_SQNR_DB + _SEEN_DB
        return cls(name, drop if falls else None, min_agreement, min_sqnr, least)

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for."""
        return self.max_drop is None and self.min_agreement is None and self.min_sqnr is None

    def floors(self, *, classes: bool) -> tuple[float | None, float | None]:
        """The floors of agreement and SQNR for a model that gives class scores, or one that does not."""
        agreement, sqnr = self.min_agreement if classes else None, self.min_sqnr
        if self.max_drop is None and agreement is None and sqnr is None:
            return (DEFAULT_AGREEMENT, None) if classes else (None, self.default_sqnr)
        return agreement, sqnr


class ImageJudge:
    """Compares candidates with the original model, on labelled images if there are any, else on the calibration ones.

    A candidate is judged by what the integer `kernels` of another processor make of it, where these are given.

    Made-up images are of no class, and of many the original itself is unsure: which class comes out then says little.
    On them each choice counts as much as the original is sure of it.

    Raises DataError when the metric does not suit the data or the model, ModelError when the original gives only NaN.
    """

    def __init__(self, original: onnx.ModelProto, ctx: Context, budget: Budget, kernels: Kernels | None = None) -> None:
        self.original = original
        self.ctx = ctx
        self.budget = budget
        self.kernels = kernels
        self._saturated: tuple[onnx.ModelProto, list[Saturation]] | None = None  # of the model that was last looked at

    def __call__(self, model: onnx.ModelProto) -> Judgement:
        """The judgement on a candidate."""
        try:
            candidate = self._candidate(model)
        except ModelError as error:
            raise PassError(f"after the approximate passes {error}; find the pass with `lpcc bisect`") from error
        likeness = self._expected.compare(candidate)
        metric = self._metric(likeness)
        if metric.needs_reference:
            name = metric.name
            before = after = drop = None
            samples = likeness.samples
        else:
            name, samples, before, after, drop = self._measured(metric, candidate)
        return Judgement(
            metric=name,
            samples=samples,
            before=before,
            after=after,
            drop=drop,
            agreement=likeness.agreement,
            sqnr_db=likeness.worst_sqnr_db if math.isfinite(likeness.worst_sqnr_db) else None,
            problem=self._problem(name, drop, likeness),
        )

    def layer_noise(
        self, reference: onnx.ModelProto, candidate: onnx.ModelProto, names: Sequence[str]
    ) -> dict[str, float]:
        """SQNR in dB at tensors that both models make, less what saturation takes where kernels saturate."""
        from lpcc.quality import layer_sqnr

        noise = layer_sqnr(reference, candidate, self.few, {name: name for name in names})
        for found in self.saturation(candidate):
            if found.tensor in noise:
                noise[found.tensor] = _together(noise[found.tensor], found.sqnr_db)
        return noise

    def saturation(self, model: onnx.ModelProto) -> list[Saturation]:
        """The layers of a model that saturate; none where kernels do not."""
        if self.kernels != "x86-novnni":
            return []
        from lpcc.simulate import saturation

        if self._saturated is None or self._saturated[0] is not model:
            self._saturated = (model, saturation(model, self.few))
        return self._saturated[1]

    @property
    def few(self) -> Dataset:
        """The images that single layers are looked at with."""
        return self._data.head(_LAYER_SAMPLES)

    @cached_property
    def _data(self) -> Dataset:
        data = self.ctx.evaluation or self.ctx.calibration
        if data is None:
            raise UsageError("there are no images to judge the result on: give --calib or --eval")
        from lpcc.simulate import kernels_here

        slow = self.kernels == "x86-novnni" != kernels_here()  # emulated sum by sum
        return data.head(_COMPARED_SAMPLES) if slow else data

    def _candidate(self, model: onnx.ModelProto) -> Session:
        if self.kernels is None:
            return self._session(model)
        from lpcc.runtime import Session
        from lpcc.simulate import kernels_here, stand_in

        model = stand_in(model, self.kernels, kernels_here())
        return Session(model, threads=os.cpu_count() or 1, signed=True)

    @cached_property
    def _reference(self) -> Session:
        return self._session(self.original, optimise=False)

    @cached_property
    def _expected(self) -> Expected:
        from lpcc.quality import Expected, class_outputs, require_numbers

        data = self._data.head(_COMPARED_SAMPLES)
        require_numbers(self._reference, data)
        return Expected(self._reference, data, class_outputs(self.original), by_margin=data.is_synthetic)

    @cached_property
    def _original_scores(self) -> dict[str, float]:
        return {}

    def _session(self, model: onnx.ModelProto, *, optimise: bool = True) -> Session:
        from lpcc.runtime import Session

        return Session(model, threads=os.cpu_count() or 1, optimise=optimise)

    def _metric(self, likeness: Comparison) -> Metric:
        from lpcc.quality import parse_metric

        return parse_metric(self.budget.metric or ("sqnr" if likeness.agreement is None else "agreement"))

    def _measured(self, metric: Metric, candidate: Session) -> tuple[str, int, float, float, float]:
        """Name, samples, the original's value, the candidate's and the drop."""
        from lpcc.quality import drop, evaluate

        if metric.name not in self._original_scores:
            self.ctx.progress(f"{metric.name} of the original", 0, 0)
            value = evaluate(self._reference, self._data, metric).value
            if not math.isfinite(value):
                raise DataError(f"metric {metric.name} of the original model is {value}; it must be a finite number")
            self._original_scores[metric.name] = value
        before = self._original_scores[metric.name]
        self.ctx.progress(f"{metric.name} of the result", 0, 0)
        score = evaluate(candidate, self._data, metric)
        return score.metric, score.samples, before, score.value, drop(metric, before, score.value)

    def _problem(self, metric: str, drop: float | None, likeness: Comparison) -> str | None:
        """Which part of the budget is broken, in words; None if it holds."""
        budget = self.budget
        if drop is not None and budget.max_drop is not None and not drop <= budget.max_drop:
            return f"{metric} falls by {drop:.2f} points, the budget is {budget.max_drop:g}"
        least, least_db = budget.floors(classes=likeness.agreement is not None)
        if least is not None and likeness.agreement is not None and not likeness.agreement >= least:
            return f"{likeness.agreement:.1f} % agree with the original, the floor is {least:g} %"
        if least_db is not None and not likeness.worst_sqnr_db >= least_db:
            return f"the outputs keep {likeness.worst_sqnr_db:.1f} dB, the floor is {least_db:g} dB"
        if budget.is_default and not likeness.unscored_sqnr_db >= budget.default_sqnr:
            return f"an output keeps {likeness.unscored_sqnr_db:.1f} dB, the floor is {budget.default_sqnr:g} dB"
        return None


def _check_drop(max_drop: float, metric: str | None, *, falls: bool) -> None:
    """Raise UsageError where a fall of the metric is out of its range, or none is measured."""
    points = metric in (None, "top1", "top5")
    if not (math.isfinite(max_drop) and 0 <= max_drop <= (100 if points else math.inf)):
        expected = "percentage points between 0 and 100" if points else "a finite number from 0 on"
        raise UsageError(f"--max-drop takes {expected}, not {max_drop:g}")
    if metric is None:
        raise UsageError(
            f"--max-drop {max_drop:g} needs labels to measure a drop on: give labelled images with --eval, or a floor "
            "that needs none, --min-agreement or --min-sqnr"
        )
    if not falls:
        raise UsageError(
            f"--max-drop {max_drop:g}: metric {metric} compares with the original and cannot fall: give "
            "--min-agreement or --min-sqnr"
        )


def _together(first: float, second: float) -> float:
    """SQNR in dB under two noises that have nothing to do with each other."""
    noise = 10 ** (-first / 10) + 10 ** (-second / 10)
    return -10 * math.log10(noise) if noise > 0 else math.inf
