"""Samples from a user's function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lpcc.data.entry import user_function
from lpcc.data.rows import LABELS, Rows, check_labels
from lpcc.data.source import Block, regroup
from lpcc.errors import DataError, LpccError


class FunctionSource:
    """What ``module:function`` returns: an iterable (or generator) of dicts, called afresh for each pass.

    Each dict is keyed by input name and may hold any number of samples: the first axis of each array is the samples.
    The key ``labels`` may hold their class indices. Each pass must give the same samples. ``len`` walks through them
    once.
    """

    def __init__(self, text: str, rows: Rows) -> None:
        self.description = text
        self._function = user_function(text)
        self._rows = rows
        self._count: int | None = None
        first = next(self._items(), None)  # most mistakes show here, before any work is done
        if first is None:
            raise DataError(f"{text}: no samples: the function returned nothing to read")
        self.labelled = first.labels is not None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(len(block) for block in self._items())
        return self._count

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        count = 0
        for block in regroup(self._items(), size):
            count += len(block)
            yield block
        if self._count not in (None, count):
            raise DataError(
                f"{self.description}: gave {self._count} samples at first and {count} now; "
                "it is called afresh for each pass and must return the same each time"
            )
        self._count = count

    def _items(self) -> Iterator[Block]:
        count = 0
        for number, item in enumerate(self._raw_items()):
            block = self._block(item, f"{self.description}, item {number}", count)
            if number and (block.labels is not None) != self.labelled:
                raise DataError(f"{self.description}, item {number}: `{LABELS}` must be in all items or in none")
            count += len(block)
            yield block

    def _raw_items(self) -> Iterator[Any]:
        try:
            yield from self._function()
        except (LpccError, GeneratorExit):
            raise
        except (Exception, SystemExit) as error:  # whatever the user's function raises
            raise DataError(f"{self.description}: raised {type(error).__name__}: {error}") from error

    def _block(self, item: object, where: str, first: int) -> Block:
        if not isinstance(item, Mapping):
            raise DataError(f"{where}: is a {type(item).__name__}, not a dict of arrays keyed by input name")
        arrays = {str(name): np.asarray(value) for name, value in item.items()}
        count = self._rows.check(where, {name: (a.dtype, a.shape) for name, a in arrays.items()})
        labels = None
        if LABELS in arrays and all(spec.name != LABELS for spec in self._rows.specs):
            labels = check_labels(where, arrays[LABELS], count)
        return Block(self._rows.feed(where, arrays, first), labels)
