"""Running a student and its teacher on samples: parts of a batch, padding, precision, repeatable randomness."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lpcc.data.source import Block
from lpcc.train.loop.augment import Mixed
from lpcc.train.recipe import Recipe

Tensor = Any


@dataclass(frozen=True)
class Part:
    """Samples that go through the network together."""

    feeds: dict[str, Tensor]
    labels: Tensor | None
    """(count,) int64."""
    other_labels: Tensor | None
    """(count,): of the samples mixed into these; None where nothing was mixed."""
    share: float
    """How much of a mixed sample is itself."""
    count: int
    """Samples that count; the rest fills up a fixed batch."""
    rows: int

    def valid(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors without the rows that fill up the batch, of those whose first axis is the samples."""
        if self.count == self.rows:
            return dict(tensors)
        return {
            name: tensor[: self.count] if tensor.ndim and len(tensor) == self.rows else tensor
            for name, tensor in tensors.items()
        }


@dataclass(frozen=True)
class Device:
    """Where training runs, and in which numbers."""

    name: str
    half: bool
    """Whether matrix products are in bfloat16."""

    @classmethod
    def of(cls, recipe: Recipe) -> Device:
        """The GPU where there is one, the processor elsewhere."""
        gpu = torch.cuda.is_available()
        auto = gpu and torch.cuda.is_bf16_supported()
        half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and auto)
        return cls("cuda" if gpu else "cpu", half)

    def tensors(self, block: Block) -> tuple[dict[str, Tensor], Tensor | None]:
        """A block of samples and its labels on the device."""
        feeds = {name: self._tensor(array) for name, array in block.arrays.items()}
        return feeds, None if block.labels is None else self._tensor(block.labels)

    def lower(self) -> Any:
        """Context in which networks run in the lower precision."""
        return torch.autocast(self.name, torch.bfloat16, enabled=self.half)

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.name == "cuda":
            return tensor.pin_memory().to(self.name, non_blocking=True)
        return tensor


def parts(mixed: Mixed, labels: Tensor | None, rows: int, *, fixed: bool, sampled: bool) -> Iterator[Part]:
    """The samples of a step, at most `rows` at a time.

    Of equal size but for one sample; with a `fixed` batch exactly `rows`, the last filled up with samples of the same
    step, so that they lie in the statistics of a batch norm as others do. Without a sample axis (not `sampled`) each
    is the input of a run by itself.
    """
    count = len(next(iter(mixed.feeds.values())))
    others = None if labels is None or mixed.partner is None else labels[mixed.partner]
    number = -(-count // rows)
    for place in range(number):
        start = place * rows if fixed else place * count // number
        stop = min(start + rows, count) if fixed else (place + 1) * count // number
        size = rows if fixed else stop - start
        if size == stop - start:
            feeds = {name: tensor[start:stop] for name, tensor in mixed.feeds.items()}
        else:
            feeds = {
                name: tensor[(start + torch.arange(size, device=tensor.device)) % count]
                for name, tensor in mixed.feeds.items()
            }
        if not sampled:
            feeds = {name: tensor[0] for name, tensor in feeds.items()}
        own = None if labels is None else labels[start:stop]
        theirs = None if others is None else others[start:stop]
        yield Part(feeds, own, theirs, mixed.share, stop - start, size)


def full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in float32 at least, as losses take them."""
    return {
        name: tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
        for name, tensor in tensors.items()
    }


def reseed(*numbers: int) -> None:
    """Make all that torch draws next (dropout) a function of `numbers`."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


@contextmanager
def repeatable(threads: int, device: str) -> Iterator[None]:
    """Within, torch computes the same from the same where it can, by `threads` threads; afterwards all is as before."""
    if device == "cuda":  # read when the first matrix is multiplied
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    search, exact = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # slow, and nothing reads what it did not write
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
            if threads != before:
                torch.set_num_threads(threads)
            yield
        finally:
            if threads != before:
                torch.set_num_threads(before)
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = search, exact
            torch.utils.deterministic.fill_uninitialized_memory = fills
            torch.use_deterministic_algorithms(deterministic, warn_only=lenient)
