"""One run over the images that gathers the statistics of all wanted tensors, in memory that does not grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from lpcc.calibrate.histograms import Array, Histogram

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset

SAMPLED = 4096
"""Values of one tensor that are binned per image. The extremes are of all values."""

_BATCH_VALUES = 4 << 20
"""Values of all wanted tensors together that a batch may have: they should stay in the processor's cache."""


def collect(
    model: onnx.ModelProto,
    names: Iterable[str],
    data: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Histogram]:
    """Run `model` over `data` once and histogram the named float tensors of its main graph, by name.

    Of a tensor with many values per image the same evenly spread positions are binned in each image, so the result does
    not depend on the batch size. `progress` is told the images done and their number. Tensors that are no floats
    (integers, sequences) are left out of the result.

    Raises:
        ModelError: onnxruntime cannot run the model, or makes no tensor of such a name.
        DataError: a sample turns out to be wrong.
    """
    from lpcc.runtime import Session, with_outputs

    wanted = list(dict.fromkeys(names))
    inputs = {info.name for info in model.graph.input}
    made = [name for name in wanted if name not in inputs]
    session = Session(with_outputs(model, made))
    found = {name: Histogram() for name in wanted}
    size = 1
    done, total = 0, len(data)
    first = next(iter(data.head(1).batches(1)), None)
    if first is not None:
        sizes = [_count(value) for value in session.run(first.feeds, made).values()]
        size = max(1, min(32, _BATCH_VALUES // max(1, sum(sizes)) * first.rows))
    for batch in data.batches(size):
        values = session.run(batch.feeds, made)
        for name in wanted:
            value = values[name] if name in values else batch.feeds.get(name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                _add(found[name], batch.valid(value), batch.count)
        done += batch.count
        progress(done, total)
    return {name: histogram for name, histogram in found.items() if histogram.low <= histogram.high}


def _count(value: object) -> int:
    return value.size if isinstance(value, np.ndarray) else 0


def _add(histogram: Histogram, value: Array, count: int) -> None:
    """Bin evenly spread positions of each sample; `count` is the number of samples."""
    if value.size == 0:
        return
    if value.dtype != np.float32:
        value = value.astype(np.float32)
    rows = value.reshape(count if value.ndim and len(value) == count else 1, -1)
    low, high = float(rows.min()), float(rows.max())
    histogram.add(rows[:, :: stride(rows.shape[1], value.shape[-1] if value.ndim else 1)], low, high)


def stride(values: int, row: int) -> int:
    """Step between the binned positions of a sample: no common divisor with the row length, to visit all columns."""
    step = -(-values // SAMPLED)
    while step > 1 and math.gcd(step, row) > 1:
        step += 1
    return step
