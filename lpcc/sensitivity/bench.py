"""One network, one pass with an option per layer, some images: what an assignment of choices does to the outputs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.errors import DataError, ModelError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.pipeline import Context, Pass
from lpcc.quality import parse_metric
from lpcc.quality.noise import noise_of
from lpcc.sensitivity.table import Trial, Values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.runtime import Session
    from lpcc.target import Target

Array = np.ndarray[Any, Any]

_BATCH = 8


@dataclass(frozen=True)
class Subject:
    """What is measured, and all that the outcome depends on; it can be sent to another process.

    `item` is run on the network of `model` (a serialised ONNX model) with its option `option`, a tuple of texts, set to
    ``layer=choice`` for each layer of an assignment. `images` are arrays by input name, samples first, which it also is
    calibrated with; the outputs are judged on `judged` of them against those of `model` itself. `metrics` are names as
    `lpcc.quality.parse_metric` takes them. What `item` finds for the assignment `first` (ranges of tensors) it is given
    time to find before any trial, and may use for all.
    """

    model: bytes
    item: Pass
    option: str
    images: Mapping[str, Array]
    judged: int
    target: Target | None = None
    metrics: tuple[str, ...] = ("sqnr", "agreement")
    seed: int = 0
    first: tuple[tuple[str, str], ...] = ()
    apart: tuple[Mapping[str, Array], Array | None] | None = None
    """Other images to judge by, in place of the first `judged`, and labels (N,) for metrics that need some."""

    @cached_property
    def digest(self) -> str:
        """A name for outcomes that differs where they may differ: model, images, pass, target, versions."""
        found = hashlib.blake2b(digest_size=16)
        feeds, labels = ({}, None) if self.apart is None else self.apart
        arrays = [*sorted(self.images.items()), *sorted(feeds.items()), *([] if labels is None else [("", labels)])]
        for name, value in arrays:
            array = np.ascontiguousarray(value)
            found.update(f"{name} {array.dtype} {array.shape} ".encode())
            found.update(array.data)
        software = " ".join(f"{name} {version(name)}" for name in ("lpcc", "onnxruntime", "numpy"))
        asked = (self.option, self.judged, self.target, self.metrics, self.seed, self.first, software)
        found.update(f"{self.item} {asked}".encode())
        found.update(self.model)
        return found.hexdigest()


@dataclass
class Bench:
    """Judges assignments for one subject; what they have in common (ranges, expected outputs) is found once."""

    subject: Subject
    _context: Context = field(init=False)
    _graph: gs.Graph = field(init=False)

    def __post_init__(self) -> None:
        from lpcc.runtime import Session

        model = onnx.ModelProto.FromString(self.subject.model)
        self._graph = from_proto(model)
        annotate(self._graph)
        reference = Session(model)
        images = Dataset.from_arrays(self.subject.images, inputs=reference.inputs)
        self._context = Context(target=self.subject.target, calibration=images, seed=self.subject.seed)
        judged = images.head(self.subject.judged)
        if self.subject.apart is not None:
            judged = Dataset.from_arrays(*self.subject.apart, inputs=reference.inputs)
        self._batches = list(judged.batches(_BATCH))
        self._expected = [self._outputs(reference, place) for place in range(len(self._batches))]
        if self.subject.first:
            self.model(dict(self.subject.first))

    def model(self, assignment: Mapping[str, str]) -> onnx.ModelProto:
        """The network with these choices."""
        chosen = tuple(f"{layer}={choice}" for layer, choice in assignment.items())
        graph = clone(self._graph)
        replace(self.subject.item, **{self.subject.option: chosen}).run(graph, self._context)
        self._context.invalidate()
        return to_proto(graph)

    def values(self, trial: Trial) -> Values:
        """Judge one trial. A network that onnxruntime refuses has infinite noise."""
        return self.judge(self.model(dict(trial.assignment)))

    def judge(self, model: onnx.ModelProto) -> Values:
        """Judge a network of the same inputs and outputs."""
        from lpcc.runtime import Session

        try:
            candidate = Session(model)
        except ModelError:
            return {"noise": math.inf, **dict.fromkeys(self.subject.metrics, math.nan)}
        found = [self._outputs(candidate, place) for place in range(len(self._batches))]
        values = {"noise": noise_of(zip(self._expected, found, strict=True))}
        for name in self.subject.metrics:
            tally = parse_metric(name).start()
            try:
                for outputs, expected, batch in zip(found, self._expected, self._batches, strict=True):
                    tally.add(outputs, expected, batch)
                values[name] = tally.value()
            except DataError:  # does not apply to these outputs
                values[name] = math.nan
        return values

    def _outputs(self, session: Session, place: int) -> dict[str, Array]:
        batch = self._batches[place]
        return {name: batch.valid(value) for name, value in session.run(batch.feeds).items()}
