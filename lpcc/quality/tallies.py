"""Judging outputs in a stream: each tally is told of one batch after another and holds a few numbers.

Values that are not finite count honestly: where reference and candidate are both NaN, or the same infinity, they agree;
any other value that is not finite on one side is the worst that there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lpcc.runtime.spec import Array


@dataclass
class Difference:
    """How far a candidate's output is from the reference's, element by element, over all batches seen."""

    signal: float = 0.0
    """Sum of squares of the reference."""
    noise: float = 0.0
    """Sum of squares of the difference; infinite once a value is finite on one side only."""
    candidate: float = 0.0
    """Sum of squares of the candidate."""
    product: float = 0.0
    absolute: float = 0.0
    """Sum of magnitudes of the reference."""
    error: float = 0.0
    """Sum of magnitudes of the difference."""
    largest: float = 0.0
    """Largest magnitude of the reference."""
    largest_error: float = 0.0
    """Largest magnitude of the difference."""

    def add(self, reference: Array, candidate: Array) -> None:
        """Take in two outputs of the same shape; integers and booleans count as numbers."""
        if reference.shape != candidate.shape:
            self.noise = self.error = self.largest_error = math.inf
            return
        r, c = (np.asarray(x).astype(np.float64).ravel() for x in (reference, candidate))
        if not (np.isfinite(r).all() and np.isfinite(c).all()):
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            both = np.isfinite(r) & np.isfinite(c)
            if not (same | both).all():
                self.noise = self.error = self.largest_error = math.inf
            r, c = r[both], c[both]
        if r.size == 0:
            return
        difference = np.abs(r - c)
        self.signal += float(r @ r)
        self.candidate += float(c @ c)
        self.product += float(r @ c)
        self.noise += float(difference @ difference)
        self.absolute += float(np.abs(r).sum())
        self.error += float(difference.sum())
        self.largest = max(self.largest, float(np.abs(r).max()))
        self.largest_error = max(self.largest_error, float(difference.max()))

    @property
    def sqnr_db(self) -> float:
        """``10 log10(signal / noise)``: inf when equal, -inf when a value broke or noise stands against no signal."""
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or math.isinf(self.noise):
            return -math.inf
        return 10 * (math.log10(self.signal) - math.log10(self.noise))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both as vectors; 1 when both are 0, 0 when one is, -1 when a value broke."""
        if math.isinf(self.noise):
            return -1.0
        if self.signal == 0 or self.candidate == 0:
            return 1.0 if self.signal == self.candidate else 0.0
        return max(-1.0, min(1.0, self.product / math.sqrt(self.signal) / math.sqrt(self.candidate)))

    @property
    def mean_relative_error(self) -> float:
        """``sum |r - c| / sum |r|``; 0 when equal, inf when the reference is 0 and the candidate is not."""
        return _share(self.error, self.absolute)

    @property
    def max_relative_error(self) -> float:
        """``max |r - c| / max |r|``; 0 when equal, inf when the reference is 0 and the candidate is not."""
        return _share(self.largest_error, self.largest)


def _share(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else math.inf


@dataclass
class Noise:
    """The signal-to-noise ratio of a `Difference` alone, several times as fast: for large tensors inside networks."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Array, candidate: Array) -> None:
        """Take in two tensors, as `Difference.add` does."""
        if reference.shape == candidate.shape and reference.dtype == candidate.dtype == np.float32:
            with np.errstate(all="ignore"):
                r, d = reference.ravel(), (reference - candidate).ravel()
                signal, noise = float(r @ r), float(d @ d)
            if math.isfinite(signal) and math.isfinite(noise):
                self.signal += signal
                self.noise += noise
                return
        whole = Difference()  # in double precision, with what is not finite told apart
        whole.add(reference, candidate)
        self.signal += whole.signal
        self.noise += whole.noise

    @property
    def sqnr_db(self) -> float:
        """As of `Difference`."""
        return Difference(self.signal, self.noise).sqnr_db


@dataclass
class Hits:
    """How many of the samples seen were hits."""

    hits: float = 0
    samples: float = 0

    def add(self, hit: Array, weights: Array | None = None) -> None:
        """Take in booleans, one per sample, and how much each sample counts, by default 1."""
        self.hits += float(np.count_nonzero(hit) if weights is None else weights[hit].sum())
        self.samples += float(hit.size if weights is None else weights.sum())

    @property
    def percent(self) -> float:
        """Share of hits, 0 to 100; NaN when no samples were seen."""
        return 100.0 * self.hits / self.samples if self.samples else math.nan


@dataclass
class Mean:
    """A mean over batches, weighted by their samples."""

    total: float = 0.0
    samples: int = 0

    def add(self, value: float, samples: int) -> None:
        """Take in a batch's value."""
        self.total += value * samples
        self.samples += samples

    @property
    def value(self) -> float:
        """The mean; NaN when no samples were seen."""
        return self.total / self.samples if self.samples else math.nan


def scores(output: Array) -> Array | None:
    """An output as class scores (N, C), or None where it is none.

    Scores are floats or 8-bit integers (N, C) or (N, C, 1, ...) with C at least 2. Maps of pixels, boxes and sequences
    are not: what their classes are cannot be told from a shape. Neither are wider integers, which are indices.
    """
    if not isinstance(output, np.ndarray) or output.ndim < 2:
        return None
    if output.dtype.kind != "f" and output.dtype not in (np.int8, np.uint8):
        return None
    if output.shape[1] < 2 or any(size != 1 for size in output.shape[2:]):
        return None
    return output.reshape(output.shape[:2])


def same_choice(reference: Array, candidate: Array) -> Array:
    """Per sample, whether both give the highest score to the same class; scores are (N, C), the first wins a tie.

    A row with NaN agrees with nothing, unless the reference has NaN too.
    """
    if reference.shape != candidate.shape:
        return np.zeros(len(reference), bool)
    broken = np.isnan(candidate).any(axis=1) & ~np.isnan(reference).any(axis=1)
    same: Array = (reference.argmax(axis=1) == candidate.argmax(axis=1)) & ~broken
    return same


def in_top(output: Array, labels: Array, k: int) -> Array:
    """Per sample, whether its label is among the `k` highest scores (N, C); among equals the first come first."""
    own = np.take_along_axis(output, labels[:, np.newaxis], axis=1)
    before = np.arange(output.shape[1]) < labels[:, np.newaxis]
    rank = ((output > own) | ((output == own) & before)).sum(axis=1)
    hit: Array = rank < k
    if output.dtype.kind == "f":
        hit &= ~np.isnan(output).any(axis=1)
    return hit
