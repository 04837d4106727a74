"""Samples on their way to training: some held out, the others shuffled, read ahead, in a bounded memory.

No torch here: what flows is NumPy arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np

from lpcc.data.dataset import Dataset
from lpcc.data.source import Block
from lpcc.errors import DataError
from lpcc.runtime.spec import shape_text

T = TypeVar("T")

MEGABYTE = 1 << 20
_AHEAD = 3
"""Batches that are made ready while one is trained on."""


class Supply:
    """The samples of a data set, most for training and every k-th held out to judge by.

    `holdout` is the share that is held out: of every ``k = 1 / holdout`` samples the last, so that every part of the
    data has its share, but no more than `limit` bytes of them; these stay in memory. The samples for training stay in
    memory too where they fit into `limit` bytes; otherwise each epoch reads them anew and shuffles them in a buffer of
    that size: a sample leaves it from a random place, which the next one read takes.

    The order is a function of `seed` and the epoch. Raises DataError when a sample is wrong, differs in shape from the
    others, or there are too few.
    """

    def __init__(self, data: Dataset, batch: int, holdout: float, seed: int, limit: int) -> None:
        self._data = data
        self._seed = seed
        total = len(data)
        first = next(data.blocks(1), None)
        if first is None:
            raise DataError(f"{data.description}: no samples to train on")
        weight = max(1, sum(array.nbytes for array in first.arrays.values()))
        self._read = max(1, min(batch, limit // weight))  # samples to read at a time
        self._every = _every(total, holdout, limit // weight)
        held = total // self._every if self._every else 0
        self.count = total - held
        """Samples to train on."""
        if self.count == 0 or (holdout > 0 and held == 0):
            raise DataError(
                f"{data.description}: {total} samples are too few to train on some and judge by others: "
                "give more, or holdout=0"
            )
        self.steps = -(-self.count // batch)
        """Batches in an epoch: of equal size but for one sample, so that no small one comes last."""
        self._capacity = min(self.count, max(limit // weight, batch))
        self._kept = _Room(data, self._capacity) if self._capacity == self.count else None
        self._held = _Room(data, held)
        self.digest = self._first_pass(total)
        """What the data is, for telling whether a later run has the same."""

    @property
    def held_out(self) -> Block | None:
        """The samples held out; None where there are none."""
        return self._held.block(slice(None)) if self._held.count else None

    def epoch(self, number: int, first: int = 0) -> Iterator[Block]:
        """The batches of an epoch from its step `first` on, each in arrays of its own."""
        rng = np.random.default_rng([self._seed, number])
        if self._kept is not None:
            order = rng.permutation(self.count)
            for start, stop in self._bounds(first):
                yield self._kept.block(order[start:stop])
            return
        samples = _shuffled(self._samples_for_training(), self._data, self._capacity, rng)
        for step, (start, stop) in enumerate(self._bounds(0)):
            batch = _Room(self._data, stop - start)
            while batch.missing:
                batch.add(*next(samples))
            if step >= first:
                yield batch.block(slice(None))

    def _bounds(self, first: int) -> Iterator[tuple[int, int]]:
        for step in range(first, self.steps):
            yield step * self.count // self.steps, (step + 1) * self.count // self.steps

    def _first_pass(self, total: int) -> str:
        """Read all samples once, keep those that are to be kept, and hash them."""
        digest = hashlib.sha256(f"{total} {self._data.labelled}".encode())
        for block, held in self._blocks():
            for place, out in enumerate(held):
                room = self._held if out else self._kept
                if room is not None:
                    room.add(block, place)
                if room is not None or place == 0:  # what is not kept is known by one sample of each block
                    _hash(digest, block, place)
        return digest.hexdigest()

    def _samples_for_training(self) -> Iterator[tuple[Block, int]]:
        for block, held in self._blocks():
            yield from ((block, int(place)) for place in np.flatnonzero(~held))

    def _blocks(self) -> Iterator[tuple[Block, np.ndarray[Any, Any]]]:
        """Blocks of samples and which of them are held out."""
        start = 0
        for block in self._data.blocks(self._read):
            places = np.arange(start, start + len(block))
            yield block, (places + 1) % self._every == 0 if self._every else np.zeros(len(block), bool)
            start += len(block)


def _every(total: int, holdout: float, most: int) -> int:
    """Of how many samples one is held out; 0: none is."""
    if holdout == 0:
        return 0
    return max(2, round(1 / holdout), -(-total // max(1, most)))


def _hash(digest: Any, block: Block, place: int) -> None:
    for name, array in block.arrays.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array[place]).data)
    if block.labels is not None:
        digest.update(int(block.labels[place]).to_bytes(8, "little", signed=True))


def _shuffled(
    samples: Iterator[tuple[Block, int]], data: Dataset, capacity: int, rng: np.random.Generator
) -> Iterator[tuple[Block, int]]:
    """The samples in an order that is random within about `capacity` of them."""
    room = _Room(data, capacity)
    for block, place in samples:
        if room.missing:
            room.add(block, place)
            continue
        drawn = int(rng.integers(capacity))
        yield room.block(slice(drawn, drawn + 1)), 0  # read before the next sample is asked for
        room.put(drawn, block, place)
    rest = room.block(slice(0, room.count))
    yield from ((rest, int(place)) for place in rng.permutation(room.count))


class _Room:
    """Arrays for a number of samples, filled one by one."""

    def __init__(self, data: Dataset, size: int) -> None:
        self._data = data
        self._size = size
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._labels = np.empty(size, np.int64) if data.labelled else None
        self.count = 0

    @property
    def missing(self) -> int:
        """Samples that there is still room for."""
        return self._size - self.count

    def add(self, block: Block, place: int) -> None:
        """Take in a sample of a block at the next free place."""
        if not self.count:
            self._arrays = {name: np.empty((self._size, *a.shape[1:]), a.dtype) for name, a in block.arrays.items()}
        self.put(self.count, block, place)
        self.count += 1

    def put(self, where: int, block: Block, place: int) -> None:
        """Take in a sample of a block at place `where`. Raises DataError when it has a shape of its own."""
        for name, array in block.arrays.items():
            kept = self._arrays[name]
            if array.shape[1:] != kept.shape[1:]:
                raise DataError(
                    f"{self._data.description}: array `{name}` has samples of {shape_text(kept.shape[1:])} and of "
                    f"{shape_text(array.shape[1:])}: training takes samples of one size"
                )
            kept[where] = array[place]
        if self._labels is not None and block.labels is not None:
            self._labels[where] = block.labels[place]

    def block(self, places: Any) -> Block:
        """The samples at `places`: a view for a slice, a copy for an array of indices."""
        labels = None if self._labels is None else self._labels[places]
        return Block({name: array[places] for name, array in self._arrays.items()}, labels)


def read_ahead(items: Iterable[T], ahead: int = _AHEAD) -> Generator[T]:
    """The same items, up to `ahead` of them made before they are asked for, by a thread of its own.

    What is raised there is raised here. The thread ends with the generator: at its end or at `close`.
    """
    queue: Queue[tuple[T] | BaseException | None] = Queue(ahead)
    stop = Event()

    def put(item: tuple[T] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                queue.put(item, timeout=0.05)
                return True
            except Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item,)):
                    return
            put(None)
        except BaseException as error:  # it belongs to whoever asks for the next item
            put(error)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = Thread(target=make, name="lpcc-read-ahead", daemon=True)
    thread.start()
    try:
        while (found := queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stop.set()
        while True:  # nothing is kept alive by the queue
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()
