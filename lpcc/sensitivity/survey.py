"""What each layer's channels are worth: a table for people and other programs, layer by share, measured on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from lpcc.data import Dataset
from lpcc.data.source import Block
from lpcc.errors import UsageError
from lpcc.graph import to_proto
from lpcc.pipeline import Context, Pass
from lpcc.quality import BUILTIN, Metric, class_outputs, drop, evaluate
from lpcc.runtime import TensorSpec
from lpcc.sensitivity.bench import Subject
from lpcc.sensitivity.measure import measure
from lpcc.sensitivity.table import Table, Values, around, write_rows

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

Array = np.ndarray[Any, Any]

NOTHING = "0"
"""The share at which a layer keeps all of its channels."""
_IMAGES = 500
_APART = 4
"""One image in so many is judged on, and not fitted to."""
_MOST_VALUES = 1 << 25
"""Of the images, where their number is not given: 128 MiB."""


@dataclass(frozen=True)
class Unit:
    """Layers that lose the same channels, such as those that add to one residual stream."""

    name: str
    """What the pass calls it: the first layer; ``layer#2`` where that makes channels of several units."""
    layers: tuple[str, ...]
    channels: int
    removed: Mapping[str, int]
    """How many of the channels a share is."""


@dataclass(frozen=True)
class Removable:
    """What a pass could remove of a network."""

    units: tuple[Unit, ...]
    stays: Mapping[str, str]
    """Layers that keep their channels whatever is asked, and why."""


@runtime_checkable
class RemovesShares(Protocol):
    """A pass that removes channels layer by layer, with an option `shares` of texts ``layer=share``."""

    def removable(self, graph: gs.Graph, ctx: Context, shares: Sequence[str]) -> Removable:
        """What the layers of `graph` could lose at these shares.

        Raises:
            UsageError: a share is none.
            BudgetError: no channel of the network can go.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """One layer and share: what removing that much of it alone does to the outputs."""

    layer: str
    unit: Unit
    share: str
    values: Values

    @property
    def removed(self) -> int:
        """Channels that went."""
        return self.unit.removed[self.share]


@dataclass(frozen=True)
class Survey:
    """A table of sensitivities: each layer whose channels can go, at each share, all others whole."""

    found: Removable
    shares: tuple[str, ...]
    table: Table
    metric: Metric
    """In which `cost` counts."""
    images: int
    """On which it was judged."""

    def __iter__(self) -> Iterator[Entry]:
        for unit in self.found.units:
            for layer in unit.layers:
                for share in self.shares:
                    yield Entry(layer, unit, share, self._values(unit, share))

    @property
    def whole(self) -> Values:
        """What the network itself is judged as."""
        return self.table.of(NOTHING).values

    def cost(self, entry: Entry) -> float | None:
        """What a layer's share costs: how far the metric falls, or for SQNR what is left of it.

        None where the share is less than one channel.
        """
        if not entry.removed:
            return None
        value = entry.values[self.metric.name]
        return value if self.metric.name == "sqnr" else drop(self.metric, self.whole[self.metric.name], value)

    def write_csv(self, path: Path) -> None:
        """Write a line for each layer and share; the file appears whole or not at all.

        Columns: layer, group (the name of its unit), share, channels (of the unit), removed (of these), noise
        (`lpcc.quality.noise`), sqnr (dB), agreement (%), the metric asked for.

        Raises:
            UsageError: it cannot be written.
        """
        names = list(self.whole)
        write_rows(
            path,
            ["layer", "group", "share", "channels", "removed", *names],
            (
                [e.layer, e.unit.name, e.share, e.unit.channels, e.removed, *(repr(e.values[name]) for name in names)]
                for e in self
            ),
        )

    def _values(self, unit: Unit, share: str) -> Values:
        tried = _tried(unit, share)
        return self.whole if tried is None else self.table.of(NOTHING, unit.name, tried).values


def survey(
    graph: gs.Graph,
    item: Pass,
    shares: Sequence[str],
    data: Dataset,
    *,
    evaluation: Dataset | None = None,
    images: int | None = None,
    metric: Metric | None = None,
    seed: int = 0,
    cache: Path | None = None,
    processes: int | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Survey:
    """Prune each layer of `graph` alone by each of `shares`, as `item` does, and judge the outputs.

    The first `images` (500, fewer where they are large) of `data` are for `item` to fit to, and as many of `evaluation`
    are judged on, or without it the next ones of `data`: at least one in four of those that it has, since what was
    fitted to images looks better on these than on others. The metric is by default top1 with labels, else agreement
    with the network itself, and SQNR for outputs that are no classes. Each group of layers and each number of channels
    is measured once, in parallel (see `lpcc.sensitivity.measure`); with a folder `cache` a survey that was stopped goes
    on.

    Raises:
        UsageError: `item` does not remove channels by layer, a share is none, or the cache cannot be written.
        BudgetError: no channel of the network can go.
        DataError: the data does not fit the model or the metric.
        ModelError: onnxruntime cannot run the network.
    """
    if not isinstance(item, RemovesShares):
        raise UsageError(f"pass `{item.name}` does not remove channels layer by layer")
    model = to_proto(graph)
    labelled = evaluation is not None and evaluation.labelled
    metric = metric or _usual(model, labelled=labelled)
    if metric.needs_labels and not labelled:
        raise UsageError(f"metric {metric.name} needs labelled images to judge on: give --eval")
    used, apart = (
        _divided(data, images) if evaluation is None else (_stacked(data, images), _stacked(evaluation, images))
    )
    inputs = TensorSpec.inputs_of(model)
    judged = Dataset.from_arrays(apart.arrays, apart.labels, inputs)
    if metric.needs_labels or metric.name not in BUILTIN:
        evaluate(model, judged, metric, model)  # what is wrong with labels or metric shows now
    fitted = Dataset.from_arrays(used.arrays, inputs=inputs)
    found = item.removable(graph, Context(calibration=fitted, seed=seed, progress=progress), shares)
    subject = Subject(
        model.SerializeToString(deterministic=True),
        item,
        "shares",
        used.arrays,
        len(used),
        metrics=tuple(dict.fromkeys(("sqnr", "agreement", metric.name))),
        seed=seed,
        apart=(apart.arrays, apart.labels),
    )
    units = {unit.name: unit for unit in found.units}
    trials = [
        trial
        for trial in around(list(units), NOTHING, shares)
        if not trial.layer or _tried(units[trial.layer], trial.choice) == trial.choice
    ]
    progress("measuring", 0, len(trials))
    table = measure(
        subject,
        trials,
        cache=cache,
        processes=processes,
        progress=lambda done, total: progress("measuring", done, total),
    )
    return Survey(found, tuple(shares), table, metric, len(judged))


def _tried(unit: Unit, share: str) -> str | None:
    """The first share that is as many channels; None where it is none."""
    count = unit.removed[share]
    return next(other for other, removed in unit.removed.items() if removed == count) if count else None


def _usual(model: onnx.ModelProto, *, labelled: bool) -> Metric:
    if not class_outputs(model):
        return BUILTIN["sqnr"]
    return BUILTIN["top1" if labelled else "agreement"]


def _divided(data: Dataset, images: int | None) -> tuple[Block, Block]:
    """The samples to fit to and those to judge by: the same ones where there are less than four."""
    each = _most(data) if images is None else images
    whole = _stacked(data, 2 * each)
    apart = max(len(whole) - each, len(whole) // _APART)
    start = len(whole) - apart
    return (whole.part(0, start), whole.part(start, len(whole))) if apart else (whole, whole)


def _most(data: Dataset) -> int:
    """How many samples are used of some whose number is not given."""
    one = next(iter(data.head(1).blocks(1))).arrays
    return min(_IMAGES, max(2, _MOST_VALUES // max(1, sum(array.size for array in one.values()))))


def _stacked(data: Dataset, images: int | None) -> Block:
    """The first samples in one block."""
    count = min(len(data), _most(data) if images is None else images)
    blocks = list(data.head(count).blocks(count))
    labels = [block.labels for block in blocks if block.labels is not None]
    arrays = {name: np.concatenate([block.arrays[name] for block in blocks]) for name in blocks[0].arrays}
    return Block(arrays, np.concatenate(labels) if labels else None)
