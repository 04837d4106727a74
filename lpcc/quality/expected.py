"""What a reference gives over a data set, kept for one candidate after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lpcc.data import Batch, Dataset
from lpcc.quality.classes import Classes
from lpcc.quality.compare import Comparison, batch_size, compare_runs, require, run
from lpcc.runtime import Session
from lpcc.runtime.spec import Array

_HELD_BYTES = 1 << 28


class Expected:
    """The outputs of a reference over all samples of a data set, which is run once where they fit into memory.

    Of larger outputs the first are kept, up to `limit` bytes in all, and the others made again for each candidate.
    """

    def __init__(
        self,
        reference: Session,
        dataset: Dataset,
        classes: Mapping[str, Classes],
        *,
        batch: int | None = None,
        limit: int = _HELD_BYTES,
        by_margin: bool = False,
    ) -> None:
        """`classes` are the outputs that choose between classes; `by_margin` is that of `compare_runs`.

        `batch` is by default that of `batch_size`.
        """
        self._reference = reference
        self._dataset = dataset
        self._classes = classes
        self._batch = batch or batch_size(dataset)
        self._limit = limit
        self._by_margin = by_margin
        self._held: list[dict[str, Array]] = []
        self._bytes = 0

    def compare(self, candidate: Session) -> Comparison:
        """How close a candidate with the same interface comes.

        Raises:
            ModelError: the candidate lacks an output, or a model cannot run.
        """
        names = [spec.name for spec in self._reference.outputs]
        require(names, candidate)
        runs = ((one.count, expected, run(candidate, one)) for one, expected in self._pairs())
        return compare_runs(runs, names, self._classes, by_margin=self._by_margin)

    def _pairs(self) -> Iterator[tuple[Batch, Mapping[str, Array]]]:
        held = list(self._held)
        for place, one in enumerate(self._dataset.batches(self._batch)):
            if place < len(held):
                yield one, held[place]
                continue
            expected = run(self._reference, one)
            if place == len(self._held):
                self._bytes += sum(getattr(values, "nbytes", 0) for values in expected.values())
                if self._bytes <= self._limit:
                    self._held.append(expected)
            yield one, expected
