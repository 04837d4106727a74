"""One run over the images that gathers the statistics of all wanted tensors, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpcc.calibrate.histograms import Array, Histogram
from lpcc.calibrate.probes import attach

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset

_WANTED = 1 << 18
"""Values of a feature map that are binned in all, about; the extremes are of all values there are."""
_PER_SAMPLE = (256, 8192)
"""Least and greatest number of those that come from one sample."""
_BATCH_VALUES = 1 << 20
"""Values of all wanted tensors together that a batch may have: they should stay in the processor's cache."""
_PENDING = 1 << 16
"""Values that are binned at once."""


@dataclass
class Statistics:
    """What a tensor held."""

    histogram: Histogram
    channel_means: Array
    """Mean of each channel (axis 1), float64; of the binned values. One mean for a tensor without that axis."""


class _Stream:
    """Values on their way into a histogram, binned in large portions: small ones cost more in calls than in work."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._sums: Array = np.zeros(1)
        self._rows = 0
        self._waiting: list[Array] = []
        self._count = 0
        self._low, self._high = np.inf, -np.inf

    def add(self, sample: Array, low: float, high: float) -> None:
        if sample.size == 0:
            return
        others = tuple(axis for axis in range(sample.ndim) if axis != 1)
        self._sums = self._sums + sample.sum(axis=others, dtype=np.float64)
        self._rows += sample.size // (sample.shape[1] if sample.ndim > 1 else 1)
        self._waiting.append(sample.reshape(-1))
        self._count += sample.size
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)  # these keep NaN
        if self._count >= _PENDING:
            self.flush()

    def finish(self) -> Statistics:
        self.flush()
        return Statistics(self.histogram, self._sums / max(self._rows, 1))

    def flush(self) -> None:
        if self._count:
            self.histogram.add(np.concatenate(self._waiting), float(self._low), float(self._high))
        self._waiting, self._count = [], 0
        self._low, self._high = np.inf, -np.inf


def collect(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Statistics]:
    """Run `model` over `data` once and gather the statistics of the named float32 tensors of its main graph, by name.

    Of a large feature map the same grid of pixels is binned in each image, so the result does not depend on the batch
    size. `progress` is told the images done and their number. Tensors of other types, and those that held no finite
    number, are left out of the result. Nothing of `model` is changed.

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
        DataError: a sample turns out to be wrong.
    """
    from lpcc.runtime import Session, with_outputs

    inputs = {info.name for info in model.graph.input}
    wanted = list(dict.fromkeys(names))
    made = [name for name in wanted if name not in inputs]
    done, total = 0, len(data)
    first = next(iter(data.head(1).batches(1)), None)
    if first is None or not wanted:
        return {}
    values = {**first.feeds, **Session(with_outputs(model, made)).run(first.feeds, made)}
    shapes = {
        name: (1, *value.shape[1:])
        for name in wanted
        if isinstance(value := values[name], np.ndarray) and value.dtype == np.float32 and value.size
    }
    per_sample = int(np.clip(_WANTED // total, *_PER_SAMPLE))
    probed = with_outputs(model, ())  # a copy
    probes = attach(probed, {name: shape for name, shape in shapes.items() if name not in inputs}, per_sample)
    outputs = [name for probe in probes.values() for name in probe.outputs]
    session = Session(with_outputs(probed, outputs))
    streams = {name: _Stream() for name in shapes}
    values_per_sample = sum(int(np.prod(shape)) for shape in shapes.values())
    for batch in data.batches(max(1, min(32, _BATCH_VALUES // max(1, values_per_sample)))):
        found = session.run(batch.feeds, outputs)
        for name, stream in streams.items():
            sample, low, high = probes[name].read(found) if name in probes else _whole(batch.feeds[name])
            stream.add(batch.valid(sample), low, high)
        done += batch.count
        progress(done, total)
    statistics = {name: stream.finish() for name, stream in streams.items()}
    return {name: found for name, found in statistics.items() if found.histogram.low <= found.histogram.high}


def _whole(value: Array) -> tuple[Array, float, float]:
    return value, float(value.min()), float(value.max())
