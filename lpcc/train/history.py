"""What happened in a training, for programs and for people. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_DECIBELS = 200.0
"""Beyond which JSON says no more."""


@dataclass(frozen=True)
class Epoch:
    """One time through the training samples."""

    number: int
    """From 1."""
    loss: float
    """Mean over the training samples, each as it was trained on."""
    parts: Mapping[str, float]
    """The parts of the loss by name, before their weights."""
    learning_rate: float
    """Of the last step."""
    metric: float | None
    """On the samples held out; None without any."""
    held_out_loss: float | None
    """The loss on the samples held out."""
    seconds: float


@dataclass
class History:
    """A training from the first epoch to why it ended."""

    metric: str
    """What told the best epoch; empty where nothing was held out."""
    higher_is_better: bool
    samples: int
    """Samples trained on."""
    held_out: int
    """Samples held out."""
    start: float | None
    """The metric before the first step."""
    start_loss: float | None
    """The loss on the samples held out before the first step."""
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    """The epoch whose weights the student has now; 0: no epoch beat the start, it has those that it came with."""
    stopped: str = ""
    """Why training ended, in one line."""
    failed: bool = False
    """Whether it ended before its time, because a number was NaN or infinite."""

    @property
    def best_metric(self) -> float | None:
        """The metric of the weights that were kept."""
        return self.epochs[self.best - 1].metric if self.best else self.start

    @property
    def seconds(self) -> float:
        """Time spent in epochs that ended."""
        return sum(epoch.seconds for epoch in self.epochs)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN as null, infinite numbers as ±200."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> History:
        """The history that `to_json` wrote."""
        return cls(**{**data, "epochs": [Epoch(**epoch) for epoch in data["epochs"]]})

    def lines(self) -> list[str]:
        """The history as text: a line for the start, one for each epoch, and why it ended."""
        shown = [_line("start", self.start_loss, self.start, self.metric)] if self.held_out else []
        for epoch in self.epochs:
            loss = f"loss {epoch.loss:.4g}, "
            held = _line(f"epoch {epoch.number}", epoch.held_out_loss, epoch.metric, self.metric, loss)
            mark = "  <- kept" if epoch.number == self.best else ""
            shown.append(f"{held}, rate {epoch.learning_rate:.2g}, {epoch.seconds:.1f} s{mark}")
        return [*shown, self.stopped] if self.stopped else shown


def amount(metric: str, value: float) -> str:
    """A metric with its unit: ``agreement 93.1%``, ``sqnr 21.4 dB``."""
    if metric in ("top1", "top5", "agreement"):
        return f"{metric} {value:.2f}%"
    return f"{metric} {value:.2f} dB" if metric == "sqnr" else f"{metric} {value:.4g}"


def _line(what: str, loss: float | None, metric: float | None, name: str, before: str = "") -> str:
    held = "" if loss is None else f"held out {loss:.4g}"
    judged = "" if metric is None or name == "loss" else f", {amount(name, metric)}"
    return f"{what}: {before}{held}{judged}".rstrip(", ")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(_DECIBELS, value)
    return value
