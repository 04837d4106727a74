"""One run over the images that gathers the statistics of all wanted tensors, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lpcc.calibrate.histograms import Array
from lpcc.calibrate.joined import Joined
from lpcc.calibrate.partial import glimpse, part
from lpcc.calibrate.probes import attach, probes_of, tensors_from_zero
from lpcc.calibrate.streams import Statistics, Stream

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Batch, Dataset

_WANTED = 1 << 18
"""Values of a feature map that are binned in all, about."""
_PER_SAMPLE = (256, 8192)
"""Least and greatest number of those that come from one image."""
_BATCH_VALUES = 1 << 22
"""Values of all wanted tensors together that a batch may have: they should stay in the processor's cache."""
_ENOUGH = {"sampled": 250, "image": 250, "all": 60}
"""Images that each tensor is binned on, if there are so many, by whose extremes are exact."""
_MOST_TURNS = {"sampled": 4, "image": 4, "all": 16}
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
    take turns, each with at least 250 images spread over all (60 where `extremes` is "all"); blocks of images, not
    batches, change turns. So the result does not depend on the batch size (chosen to suit the processor's cache where
    it is None). `extremes` says of what the least and the greatest value are to be those: the more, the longer it
    takes. `progress` is told the images done and their number. Tensors of other types, and those that held no finite
    number, are left out of the result. Nothing of `model` is changed, and what is behind the last tensor is not run.

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
        DataError: a sample turns out to be wrong.
    """
    wanted = list(dict.fromkeys(names))
    done, total = 0, len(data)
    model = _needed(model, wanted)
    values = glimpse(model, wanted, data)
    if not values:
        return {}
    shapes = {
        name: (1, *value.shape[1:])
        for name in wanted
        if isinstance(value := values[name], np.ndarray) and value.dtype == np.float32 and value.size
    }
    values = {}
    turns = int(np.clip(total // _ENOUGH[extremes], 1, _MOST_TURNS[extremes]))
    per_sample = int(np.clip(_WANTED * turns // total, *_PER_SAMPLE))
    run = _Run(model, shapes, per_sample, extremes, turns, threads)
    values_per_sample = sum(int(np.prod(shape)) for shape in shapes.values())
    for batch in data.batches(batch_size or max(1, min(_BLOCK, _BATCH_VALUES // max(1, values_per_sample)))):
        run.add(batch, done)
        done += batch.count
        progress(done, total)
    return run.statistics()


def _needed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """What makes the named tensors, with all inputs and no outputs: what comes behind them need not run."""
    inputs = {info.name for info in model.graph.input}
    made = [name for name in names if name not in inputs]
    if not made:
        return model
    found = part(model, made)
    del found.graph.output[:]
    kept = {info.name for info in found.graph.input}
    found.graph.input.extend(info for info in model.graph.input if info.name not in kept)
    return found


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
        from lpcc.runtime import Session

        self._inputs = {info.name for info in model.graph.input}
        self._probes, nodes = probes_of(model, shapes, per_sample, exact_extremes=extremes == "image")
        self._streams = {name: Stream(per_sample, int(np.prod(shape))) for name, shape in shapes.items()}
        self._turns = turns
        self._always: tuple[str, ...] = ()
        """Tensors all of whose values are looked at also when it is not their turn, for their extremes."""
        self._joined = Joined({}, frozenset())
        if extremes == "all":
            maps = {name: shape[1] for name, shape in shapes.items() if len(shape) == 4 and name not in self._inputs}
            self._joined = Joined(maps, frozenset(maps) - tensors_from_zero(model))
            self._always = tuple(name for name in shapes if name not in maps)
        probes = list(self._probes.items())
        # Where the extremes of all images are taken all tensors have the first turn: other outputs beside those take
        # longer than they do by themselves, as onnxruntime then reuses less of its memory.
        self._looked_at = [
            (probes if turn == 0 else []) if self._joined.outputs else probes[turn::turns] for turn in range(turns)
        ]
        """By turn, the tensors whose turn it is."""
        made: dict[tuple[str, ...], Session] = {}
        self._sessions = []
        for turn in range(turns):
            wanted = [probe.outputs for _, probe in self._looked_at[turn]]
            outputs = dict.fromkeys(name for names in [*wanted, self._always] for name in names)
            named = tuple(name for name in outputs if name not in self._inputs)
            if named not in made:
                made[named] = Session(attach(model, nodes, named, self._joined), threads=threads)
            self._sessions.append((made[named], [*named, *self._joined.outputs]))

    def add(self, batch: Batch, start: int) -> None:
        """Run a batch whose first image is number `start`, and take in what is found."""
        turns = (np.arange(start, start + batch.count) // _BLOCK) % self._turns
        for turn in sorted(set(turns.tolist())):
            session, outputs = self._sessions[turn]
            values = {**batch.feeds, **session.run(batch.feeds, outputs)}
            rows = None if (turns == turn).all() else np.flatnonzero(turns == turn)
            images = batch.count if rows is None else len(rows)
            whole = rows is None and batch.count == batch.rows
            for name in self._always:
                self._streams[name].widen(values[name])
            self._joined.add(values)
            for name, probe in self._looked_at[turn]:
                sample = probe.taken(values[probe.sample])
                low = None if probe.low is None else values[probe.low]
                high = values[probe.high]
                if not whole:
                    sample, high = _part(batch, sample, rows), _part(batch, high, rows)
                    low = None if low is None else _part(batch, low, rows)
                self._streams[name].add(sample, images, low, high)

    def statistics(self) -> dict[str, Statistics]:
        """What all tensors held that held finite numbers."""
        found = {name: stream.finish() for name, stream in self._streams.items()}
        for name, low, high in self._joined.extremes():
            histogram = found[name].histogram
            histogram.low, histogram.high = min(low, histogram.low), max(high, histogram.high)
        return {name: statistics for name, statistics in found.items() if np.isfinite(statistics.histogram.low)}


def _part(batch: Batch, values: Array, rows: Array | None) -> Array:
    """What belongs to some images of a batch, to all that count where `rows` is None."""
    values = batch.valid(values)
    if rows is None or values.ndim == 0 or len(values) % batch.count:
        return values
    by_image = values.reshape(batch.count, -1, *values.shape[1:])
    return by_image[rows].reshape(-1, *values.shape[1:])
