"""Images to measure on, and others to judge on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lpcc.calibrate.histograms import Array

if TYPE_CHECKING:
    from lpcc.data import Dataset

BATCH = 8
"""Images in a batch."""
_FEW = 16

Feeds = list[dict[str, Array]]


def used_and_apart(data: Dataset, used: int, apart: int) -> tuple[Feeds, Feeds]:
    """Inputs, in batches, of the first `used` images at most, and of at most `apart` others behind them.

    At most half of the images are kept apart. Of fewer than 16 images all are used for both.
    """
    kept = min(apart, len(data) // 2) if len(data) >= _FEW else 0
    count = max(1, min(used, len(data) - kept))
    if kept:
        count = max(BATCH, count - count % BATCH)  # so that no batch has images of both
    feeds = [batch.feeds for batch in data.head(count + kept).batches(BATCH)]
    first = -(-count // (data.fixed_batch or BATCH)) if kept else len(feeds)
    return feeds[:first], feeds[first:] or feeds
