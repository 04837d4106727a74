"""One run over the images that gathers the statistics of all wanted tensors, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from lpcc.calibrate.histograms import Array
from lpcc.calibrate.probes import attach, probes_of
from lpcc.calibrate.streams import Statistics, Stream

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Batch, Dataset
    from lpcc.runtime import Session

_WANTED = 1 << 18
"""Values of a feature map that are binned in all, about."""
_PER_SAMPLE = (256, 8192)
"""Least and greatest number of those that come from one image."""
_BATCH_VALUES = 1 << 22
"""Values of all wanted tensors together that a batch may have: they should stay in the processor's cache."""
_ENOUGH = 250
"""Images that each tensor is looked at on, if there are so many."""
_MOST_TURNS = 4
_BLOCK = 32
"""Images that follow each other in one turn; greatest batch."""

Extremes = Literal["sampled", "image", "all"]
"""Of what the extremes are exact: of nothing but the values looked at, of all values of the images looked at, of all
values of all images."""


def collect(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    extremes: Extremes = "sampled",
    batch_size: int | None = None,
    threads: int = 1,
) -> dict[str, Statistics]:
    """Run `model` over `data` once and gather the statistics of the named float32 tensors of its main graph, by name.

    Of a large feature map the same grid of pixels is looked at in each image. Where there are many images the tensors
    take turns, each with at least 250 images spread over all; blocks of images, not batches, change turns. So the
    result does not depend on the batch size (chosen to suit the processor's cache where it is None). `extremes` says
    of what the least and the greatest value are to be those: the more, the longer it takes. `progress` is told the
    images done and their number. Tensors of other types, and those that held no finite number, are left out of the
    result. Nothing of `model` is changed.

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
    values = {}
    turns = int(np.clip(total // _ENOUGH, 1, _MOST_TURNS))
    per_sample = int(np.clip(_WANTED * turns // total, *_PER_SAMPLE))
    streams = {name: Stream(per_sample, int(np.prod(shape))) for name, shape in shapes.items()}
    run = _Run(model, shapes, per_sample, extremes, turns, threads)
    values_per_sample = sum(int(np.prod(shape)) for shape in shapes.values())
    for batch in data.batches(batch_size or max(1, min(_BLOCK, _BATCH_VALUES // max(1, values_per_sample)))):
        run.add(batch, done, streams)
        done += batch.count
        progress(done, total)
    found = {name: stream.finish() for name, stream in streams.items()}
    return {name: statistics for name, statistics in found.items() if np.isfinite(statistics.histogram.low)}


class _Run:
    """A model with probes, and a session for each turn, in which some of the tensors are looked at."""

    def __init__(
        self,
        model: onnx.ModelProto,
        shapes: Mapping[str, tuple[int, ...]],
        per_sample: int,
        extremes: Extremes,
        turns: int,
        threads: int,
    ) -> None:
        self._model = model
        self._inputs = {info.name for info in model.graph.input}
        self._probes, self._nodes = probes_of(model, shapes, per_sample, exact_extremes=extremes != "sampled")
        self._turns = turns
        self._threads = threads
        self._open = set(shapes) if extremes == "all" else set()
        """Tensors whose extremes are looked for also when it is not their turn."""
        self._settled = extremes != "all"
        self._sessions = [self._session(turn) for turn in range(turns)]

    def add(self, batch: Batch, start: int, streams: Mapping[str, Stream]) -> None:
        """Run a batch whose first image is number `start` and hand on what is found."""
        if not self._settled and start >= _BLOCK:
            self._settle(streams)
        turns = (np.arange(start, start + batch.count) // _BLOCK) % self._turns
        for turn in np.unique(turns):
            session, outputs = self._sessions[turn]
            values = {**batch.feeds, **session.run(batch.feeds, outputs)}
            rows = None if (turns == turn).all() else np.flatnonzero(turns == turn)
            images = batch.count if rows is None else len(rows)
            for place, (name, probe) in enumerate(self._probes.items()):
                is_turn = place % self._turns == turn
                if not is_turn and name not in self._open:
                    continue
                low = np.zeros((images, 1), np.float32) if probe.low is None else _part(batch, values[probe.low], rows)
                high = _part(batch, values[probe.high], rows)
                if is_turn:
                    streams[name].add(_part(batch, probe.taken(values[probe.sample]), rows), images, low, high)
                else:
                    streams[name].widen(low, high)

    def _settle(self, streams: Mapping[str, Stream]) -> None:
        """Look no more for extremes that have reached what limits them, once some images were seen.

        Feature maps behind a Clip, the largest ones of many a network, reach both its ends in the first image.
        """
        self._settled = True
        for name, probe in self._probes.items():
            streams[name].flush()
            if probe.limits == (streams[name].low, streams[name].high):
                self._open.discard(name)
        self._sessions.clear()
        self._sessions += [self._session(turn) for turn in range(self._turns)]

    def _session(self, turn: int) -> tuple[Session, list[str]]:
        """A session in which the tensors whose turn it is are sampled, and its outputs."""
        from lpcc.runtime import Session

        outputs: list[str | None] = []
        for place, (name, probe) in enumerate(self._probes.items()):
            if place % self._turns == turn:
                outputs += [probe.sample, probe.low, probe.high]
            elif name in self._open:
                outputs += [probe.low, probe.high]
        named = list(dict.fromkeys(name for name in outputs if name is not None and name not in self._inputs))
        return Session(attach(self._model, self._nodes, named), threads=self._threads), named


def _part(batch: Batch, values: Array, rows: Array | None) -> Array:
    """What belongs to some images of a batch, to all that count where `rows` is None."""
    values = batch.valid(values)
    if rows is None or values.ndim == 0 or len(values) % batch.count:
        return values
    by_image = values.reshape(batch.count, -1, *values.shape[1:])
    return by_image[rows].reshape(-1, *values.shape[1:])
