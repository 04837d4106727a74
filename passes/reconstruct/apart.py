"""Images that a fit does not see, and which of several networks does best on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.calibrate.holdout import Feeds
from lpcc.data import Batch, Dataset
from lpcc.passes.repair.distances import distances

BATCH = 8
"""Images in a batch."""
_APART = 5
"""One image in so many is kept apart."""
_MOST_APART = 200


def images_used(data: Dataset, most: int) -> Dataset:
    """The images to fit to, of the first `most`: all but those that are kept apart, a fifth and 200 at most."""
    count = min(len(data), most)
    apart = min(count // _APART, _MOST_APART)
    return data.head(count - apart if count <= BATCH or not apart else (count - apart) // BATCH * BATCH)


def batches_apart(data: Dataset, used: Dataset, most: int) -> list[Batch]:
    """Those of the first `most` images that were not used, in batches; all where none was left out."""
    data, size = data.head(min(len(used) + _MOST_APART, most)), min(BATCH, len(used))
    apart, seen = [], 0
    for batch in data.batches(size):
        if seen >= len(used):
            apart.append(batch)
        seen += batch.count
    return apart or list(data.batches(size))


def images_apart(data: Dataset, used: Dataset, most: int) -> Feeds:
    """The inputs of `batches_apart`."""
    return [batch.feeds for batch in batches_apart(data, used, most)]


def closest(original: gs.Graph, graphs: Sequence[gs.Graph], feeds: Feeds) -> int:
    """Which of some networks has outputs closest to the original's; of equal ones the first."""
    noise = [found.total for found in distances(original, graphs, feeds)]
    return int(np.argmin(np.where(np.isfinite(noise), noise, np.inf)))
