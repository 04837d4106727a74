"""Samples that are in memory already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lpcc.data.rows import Rows, check_labels
from lpcc.data.source import Block
from lpcc.runtime.spec import Array


class ArraySource:
    """Arrays by input name with samples on the first axis, as the caller holds them."""

    def __init__(self, arrays: Mapping[str, Array], labels: Array | None, rows: Rows) -> None:
        self.description = "arrays"
        self._rows = rows
        self._arrays = dict(arrays)
        self._count = rows.check(self.description, {name: (a.dtype, a.shape) for name, a in arrays.items()})
        self._labels = None if labels is None else check_labels(self.description, labels, self._count)
        self.labelled = labels is not None

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        for start in range(0, self._count, size):
            stop = min(start + size, self._count)
            part = {name: array[start:stop] for name, array in self._arrays.items()}
            labels = None if self._labels is None else self._labels[start:stop]
            yield Block(self._rows.feed(self.description, part, start), labels)
