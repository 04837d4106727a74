"""From the times of whole probes to the cost of each kernel: one non-negative least squares over all of them.

The kernels of a probe are those that `lpcc.analysis.kernels` predicts, so that what the fit learns is what the
predictions use, changes of layout and left-over conversions included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from lpcc.analysis.kernels import Kernel
from lpcc.analysis.macs import weight_bytes
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.cost.processor import cold_share
from lpcc.cost.terms import Term
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit.host.formulas import terms
from lpcc.targets.fit.least_squares import fit_relative

_ROUNDS = 3
_IRRELEVANT = 0.005
"""Share of a sample's time below which a term does not matter to it."""
_LEAST_SAMPLES = 3
"""A term that matters to fewer is dropped: what so few say of it does not hold elsewhere."""
_LEAST_DOUBT = 0.01
"""Relative error from which a measurement counts less."""
_PART = 0.5
"""What a part of a network counts for, against a whole run."""
_RESOLUTION_MS = 0.003
"""Of the profiler, a kernel."""
_NS = 1e6
"""Nanoseconds in a millisecond."""

Column = tuple[str, str, str]
"""Kind, number format and term; without a format: ``view``, ``inference``, ``profiler``, ``weights`` (overheads)."""


@dataclass(frozen=True)
class Workload:
    """A model as the runtime runs it: its kernels, and the share of its weights that the nearest caches do not keep."""

    kernels: tuple[Kernel, ...]
    cold: float


@dataclass(frozen=True)
class Sample:
    """A network that was measured, as the kernels that it runs."""

    name: str
    work: Workload
    milliseconds: float
    profiled: bool = False
    """Whether this is a part of a network, as the profiler sees it, rather than a whole run."""

    @property
    def amounts(self) -> dict[Column, float]:
        """How much of each term it has, and of each overhead."""
        found = _amounts(self.work)
        found["profiler" if self.profiled else "inference", "", "one"] = len(self.work.kernels) if self.profiled else 1
        return found

    @property
    def weight(self) -> float:
        """How much it counts: the profiler counts whole microseconds, and calls what is not part of the work."""
        return (
            _PART / (1 + (_RESOLUTION_MS * len(self.work.kernels) / self.milliseconds) ** 2) if self.profiled else 1.0
        )


@dataclass(frozen=True)
class Coefficients:
    """Nanoseconds per unit of each term."""

    values: Mapping[Column, float]

    def predict_ms(self, work: Workload) -> float:
        """Milliseconds of one run."""
        amounts = _amounts(work) | {("inference", "", "one"): 1.0}
        return sum(self.values.get(column, 0.0) * amount for column, amount in amounts.items()) / _NS


def workload(model: onnx.ModelProto, target: Target, feeds: Mapping[str, np.ndarray] | None = None) -> Workload:
    """What the target's runtime runs for a model on inputs of the shapes of `feeds`."""
    graph = from_proto(model)
    for tensor in graph.inputs:
        if feeds and tensor.name in feeds:
            tensor.shape = list(feeds[tensor.name].shape)
    annotate(graph)
    return Workload(CostModel(target).kernels(graph, bind(graph)), cold_share(weight_bytes(graph), target))


def fit(samples: Sequence[Sample]) -> Coefficients:
    """Coefficients of all kernels in `samples`."""
    amounts = [sample.amounts for sample in samples]
    measured = np.array([sample.milliseconds for sample in samples]) * _NS
    columns = sorted({column for found in amounts for column in found})
    trusted = np.array([sample.weight for sample in samples])
    weights = trusted
    for _ in range(_ROUNDS):
        features = np.array([[found.get(column, 0.0) for column in columns] for found in amounts])
        solution = fit_relative(features, measured, weights=weights)
        matters = (features * solution / measured[:, None] > _IRRELEVANT).sum(axis=0)
        columns = [column for column, count in zip(columns, matters, strict=True) if count >= _LEAST_SAMPLES]
        residuals = np.abs(features @ solution / measured - 1)
        doubt = max(2 * float(np.median(residuals)), _LEAST_DOUBT)
        weights = trusted / np.maximum(residuals, doubt)  # what fits badly was perhaps disturbed
        weights /= weights.mean()
    features = np.array([[found.get(column, 0.0) for column in columns] for found in amounts])
    solution = fit_relative(features, measured, weights=weights)
    return Coefficients({column: float(value) for column, value in zip(columns, solution, strict=True) if value > 0})


def _amounts(work: Workload) -> dict[Column, float]:
    """How much of each term a network has."""
    found: defaultdict[Column, float] = defaultdict(float)
    if work.cold > 0:
        found["weights", "", "cold"] = work.cold * sum(kernel.weight_bytes for kernel in work.kernels)
    for kernel in work.kernels:
        if kernel.kind == "view":
            found["view", "", "one"] += 1.0
            continue
        for text in terms(kernel.kind, kernel.dtype):
            value = Term.parse(text)(kernel)
            if value > 0:
                found[kernel.kind, kernel.dtype, text] += value
    return dict(found)
