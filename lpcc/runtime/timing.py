"""How long a model takes on this machine, alone or against another, in numbers that survive a noisy machine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter_ns
from typing import Any

from lpcc.runtime.session import Session
from lpcc.runtime.spec import Array

_WARM_UP = 3  # runs: the first allocates, the next settle caches and clocks


@dataclass(frozen=True)
class Timing:
    """Time of one run of a model, in milliseconds."""

    median_ms: float
    spread_ms: float
    """Interquartile range."""
    fastest_ms: float
    runs: int

    def to_json(self) -> dict[str, float | int]:
        """The numbers as plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Comparison:
    """Times of two models run in turns: A B A B ..."""

    a: Timing
    b: Timing
    ratio: float
    """Median over the pairs of time of B / time of A: below 1, B is faster."""
    ratio_spread: float
    """Interquartile range of the pairs' ratios."""
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "ratio": self.ratio,
            "ratio_spread": self.ratio_spread,
            "pairs": self.pairs,
        }


def measure(
    session: Session,
    feeds: Mapping[str, Array],
    *,
    seconds: float = 5.0,
    min_runs: int = 15,
    progress: Callable[[float], None] | None = None,
) -> Timing:
    """Time `session` on `feeds`: as many runs as fit into `seconds`, at least `min_runs`, after a warm-up.

    `progress` is told the finished share, from 0 to 1. Raises ModelError when the model cannot run on `feeds`.
    """
    (times,) = turns([session], feeds, seconds=seconds, min_rounds=min_runs, progress=progress)
    return _timing(times)


def compare(
    a: Session,
    b: Session,
    feeds: Mapping[str, Array],
    *,
    seconds: float = 10.0,
    min_pairs: int = 15,
    progress: Callable[[float], None] | None = None,
) -> Comparison:
    """Time two models on the same feeds in turns, so that a slow moment of the machine hits both.

    As many pairs as fit into `seconds`, at least `min_pairs`, after a warm-up of both. `progress` is told the finished
    share, from 0 to 1. Raises ModelError when a model cannot run on `feeds`.
    """
    times_a, times_b = turns([a, b], feeds, seconds=seconds, min_rounds=min_pairs, progress=progress)
    ratios = [tb / ta for ta, tb in zip(times_a, times_b, strict=True)]
    return Comparison(_timing(times_a), _timing(times_b), median(ratios), _spread(ratios), len(ratios))


def turns(
    sessions: Sequence[Session],
    feeds: Mapping[str, Array],
    *,
    seconds: float = 20.0,
    min_rounds: int = 15,
    progress: Callable[[float], None] | None = None,
) -> list[list[float]]:
    """Milliseconds of each run of several models on the same feeds in turns (A B C A B C ...), a list per model.

    As many rounds as fit into `seconds`, at least `min_rounds`, after a warm-up of all. `progress` is told the finished
    share, from 0 to 1. Raises ModelError when a model cannot run on `feeds`.
    """
    plain = dict(feeds)
    for session in sessions:
        for _ in range(_WARM_UP):
            session.run(plain)
    times: list[list[float]] = [[] for _ in sessions]
    with _no_collector():
        start = perf_counter_ns()
        share = 0.0
        while share < 1.0:
            for session, mine in zip(sessions, times, strict=True):
                before = perf_counter_ns()
                session.raw.run(None, plain)
                mine.append((perf_counter_ns() - before) / 1e6)
            spent = (perf_counter_ns() - start) / 1e9
            done = len(times[0]) / min_rounds if min_rounds > 0 else 1.0
            share = min(spent / seconds if seconds > 0 else 1.0, done, 1.0)
            if progress is not None:
                progress(share)
    return times


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of the measured time."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _timing(times: list[float]) -> Timing:
    return Timing(median(times), _spread(times), min(times), len(times))


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low
