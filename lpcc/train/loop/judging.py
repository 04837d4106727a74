"""Which epoch was best: a student on samples that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lpcc.data.dataset import Batch
from lpcc.data.source import Block
from lpcc.errors import DataError, UsageError
from lpcc.quality import Metric, parse_metric, scores
from lpcc.train.loop.augment import Mixed
from lpcc.train.loop.running import Device, Part, full, parts

Tensor = Any
Run = Callable[[Part], tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor, Mapping[str, Tensor]]]
"""Outputs of student and teacher, the loss, its parts."""

LOSS = "loss"
_COUNTED = 100
"""Samples from which on right choices are counted: of fewer, one is more than a percent, and the loss tells more."""


@dataclass(frozen=True)
class Verdict:
    """What a student is worth on the samples held out."""

    value: float
    """The metric."""
    loss: float

    def beats(self, other: Verdict, *, higher: bool) -> bool:
        """Whether this is better, NaN being the worst; the loss decides between equal metrics."""
        mine, theirs = (_rank(verdict.value if higher else -verdict.value) for verdict in (self, other))
        if mine != theirs:
            return mine > theirs
        return _rank(-self.loss) > _rank(-other.loss)


class Judge:
    """Measures a student on the samples held out, again and again in the same way."""

    def __init__(
        self, block: Block, metric: str | None, device: Device, rows: int, *, fixed: bool, sampled: bool
    ) -> None:
        self._block = block
        self._asked = metric
        self._device = device
        self._cut = (rows, fixed, sampled)
        self._metric: Metric | None = None
        self._chosen = False

    @property
    def name(self) -> str:
        """The metric's name."""
        return LOSS if self._metric is None else self._metric.name

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self._metric is not None and self._metric.higher_is_better

    def __call__(self, run: Run) -> Verdict:
        """The metric and the loss of the networks that `run` runs. Raises DataError where the metric does not suit."""
        total, seen, tally = 0.0, 0, None
        rows, fixed, sampled = self._cut
        count = len(self._block)
        with torch.no_grad():
            for start in range(0, count, rows):
                feeds, labels = self._device.tensors(self._block.part(start, min(start + rows, count)))
                (part,) = parts(Mixed(feeds), labels, rows, fixed=fixed, sampled=sampled)
                student, teacher, loss, _ = run(part)
                total += float(loss) * part.count
                seen += part.count
                outputs, reference = _arrays(student), _arrays(teacher)
                if not self._chosen:
                    self._choose(reference or outputs, teaches=bool(reference))
                if tally is None and self._metric is not None:
                    tally = self._metric.start()
                if tally is not None:
                    truth = None if part.labels is None else part.labels.cpu().numpy()
                    tally.add(outputs, reference, Batch({}, truth, part.count, part.count))
        loss_value = total / seen
        return Verdict(loss_value if tally is None else tally.value(), loss_value)

    def _choose(self, outputs: Mapping[str, np.ndarray[Any, Any]], *, teaches: bool) -> None:
        """Settle on a metric once the outputs are known."""
        self._chosen = True
        name = self._asked
        if name is None:
            classes = any(scores(output) is not None for output in outputs.values())
            if classes and len(self._block) < _COUNTED:
                name = LOSS
            elif classes and self._block.labels is not None:
                name = "top1"
            elif teaches:
                name = "agreement" if classes else "sqnr"
            else:
                name = LOSS
        self._metric = None if name == LOSS else parse_metric(name)
        if self._metric is not None and self._metric.needs_labels and self._block.labels is None:
            raise DataError(f"metric {name} needs labels, which the training data has not")
        if self._metric is not None and self._metric.needs_reference and not teaches:
            raise UsageError(f"metric {name} compares with a teacher, and there is none")


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in full(tensors).items()}
