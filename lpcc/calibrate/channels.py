"""What each channel of a tensor holds on images: extremes, mean, variance, zeros, exact, from one streaming run.

The channels are reduced in the model, so that a few numbers leave the runtime for each image in place of feature maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpcc.calibrate.histograms import Array
from lpcc.calibrate.partial import glimpse

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset

_BATCH = 8
_BATCH_VALUES = 1 << 23
"""Values of all tensors together that a batch may have, of which onnxruntime may hold three copies at a time."""


@dataclass(frozen=True)
class Channels:
    """Statistics of each channel (axis 1) of a tensor, float64 (C,)."""

    low: Array
    high: Array
    mean: Array
    variance: Array

    @property
    def magnitude(self) -> Array:
        """The largest absolute value of each channel."""
        result: Array = np.maximum(np.abs(self.low), np.abs(self.high))
        return result


def measure_channels(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Channels]:
    """Run `model` over `data` once and describe the channels of the named tensors of its main graph, by name.

    Tensors (N, C, ...) of float32 are taken; what is of other types or of fewer dimensions is left out of the result,
    and so is a tensor that held numbers that are not finite. Nothing of `model` is changed.

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
        DataError: a sample turns out to be wrong.
    """
    totals: dict[str, _Total] = {}
    for rows in _streamed(model, names, data, _reductions, _reduced, progress):
        for name, (low, high, mean, square) in rows.items():
            totals.setdefault(name, _Total()).add(low, high, mean, square)
    described = {name: sums.finish() for name, sums in totals.items()}
    return {name: channels for name, channels in described.items() if np.isfinite(channels.variance).all()}


def nonzero_shares(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Array]:
    """Run `model` over `data` once; for each channel of the named tensors the share of numbers that are not zero.

    Float64 (C,) by name; tensors are taken and left out as in `measure_channels`, but that NaN counts as a number.

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
        DataError: a sample turns out to be wrong.
    """
    sums: dict[str, Array] = {}
    images = 0
    for rows in _streamed(model, names, data, _nonzero_reduction, _nonzero_reduced, progress):
        for name, (shares,) in rows.items():
            sums[name] = sums.get(name, 0.0) + shares.sum(axis=0, dtype=np.float64)
        images += max((len(shares) for (shares,) in rows.values()), default=0)
    return {name: total / images for name, total in sums.items()}


def _streamed(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    add_nodes: Callable[[onnx.ModelProto, str], tuple[str, ...]],
    reduced: Callable[[Array], tuple[Array, ...]],
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, tuple[Array, ...]]]:
    """For each batch, by name of a tensor, rows (N, C) of numbers to which its channels are reduced.

    They are reduced in the model by nodes that `add_nodes` adds to it, naming what these make (N, C, 1, ...); inputs
    and what has no more than two dimensions by `reduced`, which makes (N, C) of (N, C, ...).
    """
    from lpcc.runtime import Session, with_outputs

    inputs = {info.name for info in model.graph.input}
    wanted = list(dict.fromkeys(names))
    values = glimpse(model, wanted, data)
    if not values:
        return
    ranks = {name: value.ndim for name in wanted if _has_channels(value := values[name])}
    probed = with_outputs(model, ())  # a copy
    outputs = {name: add_nodes(probed, name) for name, rank in ranks.items() if rank >= 3 and name not in inputs}
    whole = [name for name in ranks if name not in outputs and name not in inputs]
    asked = [output for parts in outputs.values() for output in parts] + whole
    session = Session(with_outputs(probed, asked))
    done, total = 0, len(data)
    size = sum(value.size for value in values.values() if isinstance(value, np.ndarray))
    values = {}
    for batch in data.batches(max(1, min(_BATCH, _BATCH_VALUES // max(1, size)))):
        found: Mapping[str, Array] = session.run(batch.feeds, asked)
        yield {
            name: tuple(_rows(batch.valid(found[part])) for part in outputs[name])
            if name in outputs
            else reduced(batch.valid(found[name] if name in found else batch.feeds[name]))
            for name in ranks
        }
        done += batch.count
        progress(done, total)


class _Total:
    """Sums over images of what one tensor's channels held."""

    def __init__(self) -> None:
        self._low: Array = np.asarray(np.inf)
        self._high: Array = np.asarray(-np.inf)
        self._mean: Array = np.zeros(1)
        self._square: Array = np.zeros(1)
        self._images = 0

    def add(self, low: Array, high: Array, mean: Array, square: Array) -> None:
        """Take in one row (C,) for each image of a batch, four times."""
        self._low = np.minimum(self._low, low.min(axis=0))
        self._high = np.maximum(self._high, high.max(axis=0))
        self._mean = self._mean + mean.sum(axis=0, dtype=np.float64)
        self._square = self._square + square.sum(axis=0, dtype=np.float64)
        self._images += len(mean)

    def finish(self) -> Channels:
        mean = self._mean / max(self._images, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            variance = np.maximum(self._square / max(self._images, 1) - mean**2, 0.0)
        return Channels(self._low.astype(np.float64), self._high.astype(np.float64), mean, variance)


def _reductions(model: onnx.ModelProto, name: str) -> tuple[str, str, str, str]:
    """Add nodes for least, greatest, mean and mean square of the channels of `name`, by operators of every opset."""
    from onnx import helper

    low, high, mean, square = (f"{name}/channel_{part}" for part in ("low", "high", "mean", "square"))
    model.graph.node.extend(
        [
            helper.make_node("Neg", [name], [f"{low}_negative"]),
            helper.make_node("GlobalMaxPool", [f"{low}_negative"], [f"{low}_of_negative"]),
            helper.make_node("Neg", [f"{low}_of_negative"], [low]),
            helper.make_node("GlobalMaxPool", [name], [high]),
            helper.make_node("GlobalAveragePool", [name], [mean]),
            helper.make_node("Mul", [name, name], [f"{square}_all"]),
            helper.make_node("GlobalAveragePool", [f"{square}_all"], [square]),
        ]
    )
    return low, high, mean, square


def _nonzero_reduction(model: onnx.ModelProto, name: str) -> tuple[str]:
    """Add nodes for the share of numbers in each channel of `name` that are not zero."""
    from onnx import TensorProto, helper

    is_nonzero, number, share = (f"{name}/channel_nonzero_{part}" for part in ("is", "number", "share"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", [name], [is_nonzero], to=TensorProto.BOOL),
            helper.make_node("Cast", [is_nonzero], [number], to=TensorProto.FLOAT),
            helper.make_node("GlobalAveragePool", [number], [share]),
        ]
    )
    return (share,)


def _nonzero_reduced(values: Array) -> tuple[Array]:
    """The share of numbers that are not zero for each image and channel of (N, C, ...)."""
    return ((values.reshape(*values.shape[:2], -1) != 0).mean(axis=2),)


def _has_channels(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim >= 2 and value.size > 0


def _rows(pooled: Array) -> Array:
    """(N, C, 1, ...) as (N, C)."""
    return pooled.reshape(pooled.shape[:2])


def _reduced(values: Array) -> tuple[Array, Array, Array, Array]:
    """Least, greatest, mean and mean square for each image and channel of (N, C, ...)."""
    flat = values.reshape(*values.shape[:2], -1).astype(np.float64)
    return flat.min(axis=2), flat.max(axis=2), flat.mean(axis=2), np.square(flat).mean(axis=2)


def image_means(model: onnx.ModelProto, names: Iterable[str], feeds: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """The mean of each channel of the named tensors (N, C, ...) of the main graph over each image, float64 (N, C).

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
    """
    from onnx import helper

    from lpcc.runtime import Session, with_outputs

    feeds = list(feeds)
    wanted = list(dict.fromkeys(names))
    if not wanted or not feeds:
        return {}
    ranks = {name: value.ndim for name, value in Session(with_outputs(model, wanted)).run(feeds[0], wanted).items()}
    probed = with_outputs(model, ())  # a copy
    outputs = {}
    for name, rank in ranks.items():
        outputs[name] = f"{name}/channel_mean" if rank >= 3 else name
        if rank >= 3:
            probed.graph.node.append(helper.make_node("GlobalAveragePool", [name], [outputs[name]]))
    asked = list(outputs.values())
    session = Session(with_outputs(probed, asked))
    runs = [session.run(feed, asked) for feed in feeds]
    return {
        name: np.concatenate([_rows(run[output]).astype(np.float64) for run in runs])
        for name, output in outputs.items()
        if ranks[name] >= 2
    }
