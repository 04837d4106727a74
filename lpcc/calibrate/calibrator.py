"""One run over the images that gathers the statistics of all wanted tensors, in memory that does not grow."""

from __future__ import annotations

import math
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
"""Values of a feature map that are binned in all, about."""
_PER_SAMPLE = (256, 8192)
"""Least and greatest number of those that come from one image."""
_BATCH_VALUES = 1 << 22
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

    def __init__(self, per_sample: int) -> None:
        self._per_sample = per_sample
        self._histogram = Histogram()
        self._samples: list[Array] = []
        self._lows: list[Array] = []
        self._highs: list[Array] = []
        self._count = 0
        self._sums: Array = np.zeros(1)
        self._rows = 0

    def add(self, sample: Array, low: Array, high: Array) -> None:
        """Take in a sample, and arrays that have the extremes of all the values among them."""
        if sample.ndim == 0:
            sample = sample.reshape(1)
        if self._samples and sample.shape[1:] != self._samples[0].shape[1:]:
            self._flush()  # images of another size
        self._samples.append(sample)
        self._lows.append(low)
        self._highs.append(high)
        self._count += sample.size
        if self._count >= _PENDING:
            self._flush()

    def finish(self) -> Statistics:
        self._flush()
        return Statistics(self._histogram, self._sums / max(self._rows, 1))

    def _flush(self) -> None:
        if self._count:
            values = np.concatenate(self._samples)
            others = tuple(axis for axis in range(values.ndim) if axis != 1)
            self._sums = self._sums + values.sum(axis=others).astype(np.float64)
            self._rows += values.size // (values.shape[1] if values.ndim > 1 else 1)
            lows, highs = (np.concatenate([part.reshape(-1) for part in parts]) for parts in (self._lows, self._highs))
            rows = values.reshape(len(values), -1)
            step = _step(rows.shape[1] // self._per_sample, values.shape[-1])
            self._histogram.add(rows[:, ::step], float(lows.min()), float(highs.max()))
        self._samples, self._lows, self._highs = [], [], []
        self._count = 0


def collect(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    exact_extremes: bool = False,
) -> dict[str, Statistics]:
    """Run `model` over `data` once and gather the statistics of the named float32 tensors of its main graph, by name.

    Of a large feature map the same grid of pixels is looked at in each image, so the result does not depend on the
    batch size; with `exact_extremes` its least and greatest value are those of all pixels, which takes longer.
    `progress` is told the images done and their number. Tensors of other types, and those that held no finite number,
    are left out of the result. Nothing of `model` is changed.

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
    probes = attach(
        probed,
        {name: shape for name, shape in shapes.items() if name not in inputs},
        per_sample,
        exact_extremes=exact_extremes,
    )
    outputs = [name for probe in probes.values() for name in probe.outputs]
    session = Session(with_outputs(probed, outputs))
    streams = {name: _Stream(per_sample) for name in shapes}
    values_per_sample = sum(int(np.prod(shape)) for shape in shapes.values())
    for batch in data.batches(max(1, min(32, _BATCH_VALUES // max(1, values_per_sample)))):
        found = session.run(batch.feeds, outputs)
        for name, stream in streams.items():
            if name in probes:
                sample, low, high = probes[name].read(found)
            else:
                sample = low = high = batch.feeds[name]
            stream.add(batch.valid(sample), low, high)
        done += batch.count
        progress(done, total)
    statistics = {name: stream.finish() for name, stream in streams.items()}
    return {name: found for name, found in statistics.items() if found.histogram.low <= found.histogram.high}


def _step(least: int, row: int) -> int:
    """A stride of `least` or a little more that has no divisor in common with the row length: it visits all columns."""
    step = max(1, least)
    while math.gcd(step, row) > 1:
        step += 1
    return step
