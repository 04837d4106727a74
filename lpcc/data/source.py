"""Where samples come from: the protocol that every kind of data follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lpcc.errors import DataError
from lpcc.runtime.spec import Array, shape_text


@dataclass(frozen=True)
class Block:
    """Some consecutive samples: arrays by input name with samples on the first axis, and their labels, if any."""

    arrays: dict[str, Array]
    labels: Array | None

    def __len__(self) -> int:
        # A model without inputs takes one kind of sample: nothing.
        return len(next(iter(self.arrays.values()))) if self.arrays else 1

    def part(self, start: int, stop: int) -> Block:
        """Samples `start` to `stop`; views, not copies."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Block({name: array[start:stop] for name, array in self.arrays.items()}, labels)


class Source(Protocol):
    """A finite sequence of samples that can be read from the start any number of times, always the same.

    Everything it yields is checked: names, types, shapes, finite values. It raises DataError where data is wrong.
    """

    @property
    def description(self) -> str:
        """What this is, for messages and reports: a file's name, a function's."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether samples have labels."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        ...


class Head:
    """The first samples of another source."""

    def __init__(self, whole: Source, count: int) -> None:
        self.description = whole.description
        self.labelled = whole.labelled
        self._whole = whole
        self._count = max(0, min(count, len(whole)))

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        left = self._count
        blocks = self._whole.blocks(size)
        while left > 0:
            block = next(blocks).part(0, left)
            yield block
            left -= len(block)


class Unlabelled:
    """Another source without its labels."""

    labelled = False

    def __init__(self, whole: Source) -> None:
        self.description = whole.description
        self._whole = whole

    def __len__(self) -> int:
        return len(self._whole)

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        for block in self._whole.blocks(size):
            yield Block(block.arrays, None)


def regroup(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """The same samples in blocks of exactly `size`, fewer in the last; holds at most one block more than it yields.

    Raises DataError when samples that come into one block differ in shape.
    """
    waiting: list[Block] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count < size:
            continue
        whole = _join(waiting)
        for start in range(0, count - size + 1, size):
            yield whole.part(start, start + size)
        rest = count % size
        waiting, count = ([whole.part(count - rest, count)], rest) if rest else ([], 0)
    if waiting:
        yield _join(waiting)


def _join(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    for name, first in blocks[0].arrays.items():
        other = next((block.arrays[name] for block in blocks if block.arrays[name].shape[1:] != first.shape[1:]), None)
        if other is not None:
            raise DataError(
                f"array `{name}` has samples of {shape_text(first.shape[1:])} and of {shape_text(other.shape[1:])}, "
                "which cannot be run together: give all one size"
            )
    labels = [block.labels for block in blocks if block.labels is not None]
    return Block(
        {name: np.concatenate([block.arrays[name] for block in blocks]) for name in blocks[0].arrays},
        np.concatenate(labels) if labels else None,
    )
