"""The report of one optimisation. Its fields are the keys of the JSON form, in this order; docs/report.md lists them.

Numbers are plain Python. None stands for what was not measured or does not apply, and JSON's null for that and for
numbers that are not finite, which JSON cannot say. Accuracies and agreements are in percent, drops in points of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lpcc.report.plain import from_plain, to_plain

Data = Literal["real", "synthetic", "none"]
"""What quality was judged on: the user's samples, made-up images, or nothing."""

Kept = Literal["optimised", "partly", "original"]
"""Which model is the result: all passes as asked, with some layers or passes taken back, or the model as it came."""


@dataclass(frozen=True)
class Figures:
    """A model in numbers. Latency, energy and peak memory hold on the target, by its cost model or by measurement."""

    nodes: int
    parameters: int
    macs: int
    """Multiply-accumulates of one run."""
    weight_bytes: int
    file_bytes: int
    """Size on disk, external data included."""
    latency_ms: float | None
    energy_mj: float | None
    peak_activation_bytes: int
    bytes_by_type: Mapping[str, int] = field(default_factory=dict)
    """All constants by number format, the largest first."""
    bits_per_weight: float | None = None
    """Of the weights of layers, with their scales, as the file holds them. None: there are no such weights."""


@dataclass(frozen=True)
class Quality:
    """How close the result is to the original, and to the truth where there are labels."""

    metric: str | None = None
    """``top1``, ``top5``, ``relative-error``, ``sqnr``, ``cosine``, a ``module:function``; None: nothing was judged."""
    samples: int = 0
    before: float | None = None
    """The metric of the original; percent for accuracies. None for metrics that compare with the original."""
    after: float | None = None
    drop: float | None = None
    """Before minus after: percentage points for accuracies."""
    agreement: float | None = None
    """Percent of samples whose strongest class is that of the original."""
    sqnr_db: float | None = None
    """Signal over quantisation noise of the outputs. None where they are equal, too."""
    data: Data = "none"
    max_drop: float | None = None
    """The budget; so are the two floors below. None: not asked for."""
    min_agreement: float | None = None
    min_sqnr: float | None = None
    emulated: str | None = None
    """Whose integer kernels it was judged by: ``arm``, ``x86-vnni``, ``x86-novnni``; None: those of this machine."""


@dataclass(frozen=True)
class RefusalReport:
    """A place that a pass left alone, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class PassReport:
    """What one pass did."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """All options by their written names, defaults included."""
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rewrites by kind."""
    refused: tuple[RefusalReport, ...] = ()
    taken_back: bool = False
    """Whether the result does without what it did."""


@dataclass(frozen=True)
class LayerReport:
    """One layer of the result beside the layer of the original that it came from."""

    name: str
    op: str
    dtype_before: str | None = None
    """Number format that the kernel computes in: ``float32``, ``u8s8``. None, before or after: no such layer."""
    dtype_after: str | None = None
    sqnr_db: float | None = None
    """Of the layer's output against the original's."""
    macs: int = 0
    latency_ms_before: float | None = None
    latency_ms_after: float | None = None
    note: str = ""
    """What happened to it: ``float: went back, 9.1 dB``."""
    damage_db: float | None = None
    """By how much its output is worse than the worst of its inputs: what it adds to the noise."""
    saturated: float | None = None
    """Share of its sums of two products that do not fit into 16 bits, where kernels add them up so."""
    saturated_db: float | None = None
    """Its result over what that takes from it."""


@dataclass(frozen=True)
class WorstReport:
    """One of the layers that add most to the noise, and what could be done about it."""

    name: str
    sqnr_db: float | None
    damage_db: float | None
    cause: str
    """``clipping``, ``outliers``, ``resolution``, ``weights``, ``saturation``, ``arithmetic``, ``channels`` or
    ``factors``."""
    detail: str
    """The cause in words."""
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """Which model is the result, whether it meets the budget, and what it gains."""

    kept: Kept
    met_budget: bool
    """Whether the pipeline as asked for, layers taken back included, keeps the budget.

    False: the budget left nothing of what was asked for, and the result is the best model within it.
    """
    reasons: tuple[str, ...] = ()
    """Why it was decided so: what was taken back and for which number."""
    speedup: float | None = None
    """Latency of the original over that of the result: above 1, the result is faster."""
    measured: bool = False
    """Whether latencies were measured on this host; else the target's cost model predicts them."""


@dataclass(frozen=True)
class Report:
    """What was done to a model, what it gained and what it cost."""

    model: str
    """Path of the input, or the graph's name for a model in memory."""
    output: str | None
    """Path of the result; None while it has none."""
    target: str
    pipeline: str
    seed: int
    versions: Mapping[str, str]
    """Of lpcc, Python and the libraries that had a part in it."""
    seconds: float
    """Wall time of the whole run."""
    before: Figures
    after: Figures
    quality: Quality
    passes: tuple[PassReport, ...]
    layers: tuple[LayerReport, ...]
    verdict: Verdict
    notes: tuple[str, ...] = ()
    """What the reader should know besides: assumed sizes, quality unverified by real data."""
    worst: tuple[WorstReport, ...] = ()
    """The layers that add most to the noise, the worst first; at most five."""

    def to_json(self) -> dict[str, Any]:
        """The report as values that `json.dumps` takes with ``allow_nan=False``, keys in the order of the fields."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report of its JSON form; keys that are not known are passed over.

        Raises:
            UsageError: a key is missing or has a value of another type; the message names it.
        """
        return from_plain(cls, data)
