"""What quality is measured by: the metric that a budget counts in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol

import numpy as np

from lpcc.data import Batch
from lpcc.data.entry import is_entry, user_function
from lpcc.errors import DataError, UsageError
from lpcc.quality.tallies import Difference, Hits, Mean, in_top, same_choice, scores
from lpcc.runtime.spec import Array

Outputs = Mapping[str, Array]


class Tally(Protocol):
    """A metric on its way: what it has seen so far."""

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in a model's outputs for a batch, without padding, and the original's (empty unless asked for)."""
        ...

    def value(self) -> float:
        """The metric over all that was seen."""
        ...


class Metric(Protocol):
    """A measure of quality. `start` begins a new measurement."""

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        ...

    @property
    def needs_labels(self) -> bool:
        """Whether it wants the truth."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the original's outputs."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a drop is a loss."""
        ...

    def start(self) -> Tally:
        """Begin."""
        ...


def parse_metric(text: str) -> Metric:
    """The metric that `text` names: top1, top5, agreement, sqnr, cosine, relative-error, or ``module:function``.

    Raises UsageError with the nearest names.
    """
    if text in BUILTIN:
        return BUILTIN[text]
    if is_entry(text):
        return Custom(text, user_function(text))
    close = get_close_matches(text, BUILTIN, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(BUILTIN)} and module:function"
    raise UsageError(f"unknown metric `{text}`: {hint}")


def drop(metric: Metric, before: float, after: float) -> float:
    """How much worse `after` is than `before`, in the metric's own unit; negative where it is better."""
    lost = before - after if metric.higher_is_better else after - before
    return 0.0 if before == after else lost  # infinities are equal, their difference is NaN


@dataclass(frozen=True)
class TopK:
    """Percent of samples whose label is among the `k` highest scores."""

    k: int
    needs_labels: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"top{self.k}"

    def start(self) -> Tally:
        """Begin."""
        return _TopKTally(self)


@dataclass(frozen=True)
class Agreement:
    """Percent of samples for which the highest score is the same class as the original's."""

    name: ClassVar[str] = "agreement"
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True

    def start(self) -> Tally:
        """Begin."""
        return _AgreementTally()


@dataclass(frozen=True)
class Likeness:
    """A number about the difference from the original's outputs; of several outputs, that of the worst."""

    name: str
    number: Callable[[Difference], float]
    higher_is_better: bool
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True

    def start(self) -> Tally:
        """Begin."""
        return _LikenessTally(self)


@dataclass(frozen=True)
class Custom:
    """A user's ``function(outputs, labels) -> float``; higher is better.

    It is called once per batch with the outputs by name, samples on the first axis, and labels (N,) or None. The metric
    is the mean over samples. A budget counts in its unit: let it return percent to have percentage points.

    For what is no mean over samples it may be a class instead, such as a mean average precision: one is made for each
    measurement, its ``add(outputs, labels)`` is called once per batch, and its ``value()`` is the metric.
    """

    name: str
    function: Callable[..., Any]
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True

    def start(self) -> Tally:
        """Begin."""
        return _GatheringTally(self) if isinstance(self.function, type) else _CustomTally(self)


@dataclass
class _TopKTally:
    metric: TopK
    seen: Hits = field(default_factory=Hits)

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:  # noqa: ARG002
        if batch.labels is None:
            raise DataError(f"{self.metric.name} needs labels: give labelled data, or a metric without labels")
        found = next((s for s in map(scores, outputs.values()) if s is not None), None)
        if found is None:
            raise DataError(f"{self.metric.name} needs an output of class scores [N, C], the model has none")
        if len(batch.labels) and int(batch.labels.max()) >= found.shape[1]:
            raise DataError(
                f"label {int(batch.labels.max())} is none of the model's {found.shape[1]} classes (0 is first)"
            )
        self.seen.add(in_top(found, batch.labels, self.metric.k))

    def value(self) -> float:
        return self.seen.percent


@dataclass
class _AgreementTally:
    seen: dict[str, Hits] = field(default_factory=dict)

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:  # noqa: ARG002
        for name, value in reference.items():
            expected, found = scores(value), scores(outputs[name])
            if expected is not None and found is not None:
                self.seen.setdefault(name, Hits()).add(same_choice(expected, found))
        if not self.seen:
            raise DataError("agreement needs an output of class scores [N, C], the model has none: use sqnr")

    def value(self) -> float:
        return min((hits.percent for hits in self.seen.values()), default=float("nan"))


@dataclass
class _LikenessTally:
    metric: Likeness
    seen: dict[str, Difference] = field(default_factory=dict)

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:  # noqa: ARG002
        for name, value in reference.items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                self.seen.setdefault(name, Difference()).add(value, outputs[name])

    def value(self) -> float:
        worst = min if self.metric.higher_is_better else max
        return worst((self.metric.number(d) for d in self.seen.values()), default=float("nan"))


@dataclass
class _CustomTally:
    metric: Custom
    seen: Mean = field(default_factory=Mean)

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:  # noqa: ARG002
        with _reporting(self.metric):
            self.seen.add(float(self.metric.function(dict(outputs), batch.labels)), batch.count)

    def value(self) -> float:
        return self.seen.value


class _GatheringTally:
    def __init__(self, metric: Custom) -> None:
        self._metric = metric
        with _reporting(metric):
            self._own = metric.function()

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:  # noqa: ARG002
        with _reporting(self._metric):
            self._own.add(dict(outputs), batch.labels)

    def value(self) -> float:
        with _reporting(self._metric):
            return float(self._own.value())


@contextmanager
def _reporting(metric: Custom) -> Iterator[None]:
    """Turn whatever a user's code raises into an error of the data, with the metric's name."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise DataError(f"metric {metric.name} raised {type(error).__name__}: {error}") from error


BUILTIN: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        TopK(1),
        TopK(5),
        Agreement(),
        Likeness("sqnr", lambda d: d.sqnr_db, higher_is_better=True),
        Likeness("cosine", lambda d: d.cosine, higher_is_better=True),
        Likeness("relative-error", lambda d: d.mean_relative_error, higher_is_better=False),
    )
}
"""The metrics by name; agreement and accuracies in percent, sqnr in dB."""
