"""What the tools' files are judged on: outputs on images that calibration did not see, kernels, and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from detection import MeanAveragePrecision

from lpcc.errors import LpccError
from lpcc.quality import Difference, Hits, same_choice, scores
from lpcc.runtime import Session, count_kernels, optimised, turns

Outputs = dict[str, np.ndarray]
_BATCH = 10


@dataclass(frozen=True)
class Subject:
    """A model with images."""

    name: str
    model: Path
    calibration: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]
    labels: np.ndarray | None
    choices: Mapping[str, int]
    """Outputs that are scores of classes, apart from (N, C), with the axis of the classes."""
    scenes: dict[str, np.ndarray] | None = None
    """Images of coco128 in order, for FastestDet."""


@dataclass
class Judged:
    """A model's outputs beside the float model's, and how it runs."""

    hits: Hits = field(default_factory=Hits)
    agreed: dict[str, Hits] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    kernels: str = ""
    """Integer and float convolutions that onnxruntime executes."""
    share: float = 0.0
    """Time of one image as a share of the float model's."""
    map50: float | None = None
    error: str | None = None

    @property
    def score(self) -> float:
        """Percent of labels hit, or mAP50 in percent; NaN without labels or boxes."""
        return self.hits.percent if self.map50 is None else self.map50

    @property
    def agreement(self) -> float:
        """Percent of the float model's choices kept, the least of all outputs; NaN where none is a choice."""
        return min((hits.percent for hits in self.agreed.values()), default=float("nan"))

    @property
    def sqnr(self) -> float:
        """SQNR in dB of the worst output."""
        return min((difference.sqnr_db for difference in self.differences.values()), default=float("nan"))

    def add(self, expected: Outputs, found: Outputs, labels: np.ndarray | None, choices: Mapping[str, int]) -> None:
        """Take in a batch."""
        for name, reference in expected.items():
            value = found[name]
            self.differences.setdefault(name, Difference()).add(reference, value)
            chosen = [_classes(array, choices.get(name)) for array in (reference, value)]
            if chosen[0] is None or chosen[1] is None:
                continue
            self.agreed.setdefault(name, Hits()).add(same_choice(chosen[0], chosen[1]))
            if labels is not None and len(chosen[1]) == len(labels):
                self.hits.add(chosen[1].argmax(1) == labels)


def judge(subject: Subject, files: Mapping[str, Path], *, seconds: float) -> dict[str, Judged]:
    """Each file beside the float model, which is judged too, as `float`; what cannot run says why.

    `seconds` are spent on timing, in turns with one thread.
    """
    found = {"float": Judged(), **{name: Judged() for name in files}}
    paths = {"float": subject.model, **files}
    judging = _opened(paths, found, threads=2)
    for feeds, labels in _batches(subject):
        expected: Outputs = {}
        for name, session in list(judging.items()):
            try:
                outputs = _run(session, feeds)
            except LpccError as error:
                found[name].error = str(error)
                del judging[name]
                continue
            expected = expected or outputs
            found[name].add(expected, _named_like(outputs, expected), labels, subject.choices)
    for name, session in judging.items():
        found[name].map50 = _map50(session, subject)
        kernels = count_kernels(optimised(onnx.load(paths[name])))
        found[name].kernels = f"{kernels.integer_convolutions}/{kernels.float_convolutions}"
    racing = _opened({name: paths[name] for name in judging}, found, threads=1)
    one = {name: array[:1] for name, array in subject.evaluation.items()}
    times = dict(zip(racing, turns(list(racing.values()), one, seconds=seconds), strict=True))
    for name, mine in times.items():
        found[name].share = median(b / a for a, b in zip(times["float"], mine, strict=True))
    return found


def _opened(paths: Mapping[str, Path], found: Mapping[str, Judged], *, threads: int) -> dict[str, Session]:
    sessions = {}
    for name, path in paths.items():
        try:
            sessions[name] = Session(path, threads=threads)
        except LpccError as error:
            found[name].error = str(error)
    return sessions


def _batches(subject: Subject) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
    count = len(next(iter(subject.evaluation.values())))
    for start in range(0, count, _BATCH):
        part = slice(start, start + _BATCH)
        feeds = {name: array[part] for name, array in subject.evaluation.items()}
        yield feeds, None if subject.labels is None else subject.labels[part]


def _run(session: Session, feeds: Mapping[str, np.ndarray]) -> Outputs:
    """The outputs of a batch; image by image where the model takes no batches."""
    shape = session.inputs[0].shape
    if not shape or not isinstance(shape[0], int):
        return session.run(feeds)
    count = len(next(iter(feeds.values())))
    parts = [session.run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _map50(session: Session, subject: Subject) -> float | None:
    """Mean average precision; None where there are no boxes to find."""
    if subject.scenes is None:
        return None
    outputs, metric = _run(session, subject.scenes), MeanAveragePrecision()
    metric.add(outputs, np.arange(len(next(iter(outputs.values())))))
    return metric.value()


def _named_like(outputs: Outputs, expected: Outputs) -> Outputs:
    """Outputs by the float model's names: some tools rename them, none changes their order."""
    if outputs.keys() >= expected.keys():
        return outputs
    return dict(zip(expected, outputs.values(), strict=True))


def _classes(output: np.ndarray, axis: int | None) -> np.ndarray | None:
    """Scores (choices, classes) of an output; None where it is none."""
    if axis is None:
        return scores(output)
    return np.moveaxis(output, axis, -1).reshape(-1, output.shape[axis])
