"""Times of many models on a machine that others use too: in turns, and only what nobody disturbed.

A run that waited for the processor took more time than it computed. A core that is slower than it was (heat, a
neighbour on the same core) takes longer for a piece of known work. Both kinds of samples are thrown away and taken
again.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Protocol

from lpcc.errors import LpccError

Progress = Callable[[str, int, int], None]

_WAITED = 1.03
"""Ratio of passed to computing time above which a run counts as disturbed."""
_SLACK_NS = 3_000
"""What reading the two clocks may differ by."""
_SLOW = 1.15
"""Ratio of the time of the known work to what it takes on a good day above which the core counts as slow."""
_GOOD = 0.1
"""Share of the recent times of the known work that are that good."""
_RECENT = 400
_LEAST_SHARE = 0.1
"""Of the samples: if fewer are undisturbed, there is no use in going on."""
_PATIENCE = 40
"""Samples that are taken before that is judged."""


class BusyError(LpccError):
    """The machine does other work, so that nothing can be measured on it."""

    exit_code = 3


class Clock(Protocol):
    """Two clocks, in nanoseconds: the time that passes, and the time that this thread computes."""

    def passed(self) -> int:
        """Time that passes."""
        ...

    def computed(self) -> int:
        """Time that this thread was on a processor."""
        ...

    def spin(self) -> None:
        """A piece of known work."""
        ...


class SystemClock:
    """This machine's clocks. Where it has no fine one of a thread's time, that reads as the time that passes."""

    def __init__(self) -> None:
        fine = time.get_clock_info("thread_time").resolution < 1e-6
        self.passed: Callable[[], int] = time.perf_counter_ns
        self.computed: Callable[[], int] = time.thread_time_ns if fine else time.perf_counter_ns

    def spin(self) -> None:
        """Some 0.2 ms of Python."""
        for _ in range(10_000):
            pass


@dataclass
class Gate:
    """Takes samples and tells those that were disturbed."""

    clock: Clock = field(default_factory=SystemClock)
    taken: int = 0
    kept: int = 0
    _spins: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def sample(self, run: Callable[[], object], runs: int) -> float | None:
        """Milliseconds of the typical undisturbed one of `runs` runs; None where too few were.

        Raises:
            BusyError: the machine disturbs nearly all that is measured.
        """
        self.taken += 1
        slow = not self._is_fast()
        found = []
        for _ in range(runs):
            passed, computed = self.clock.passed(), self.clock.computed()
            run()
            computed, passed = self.clock.computed() - computed, self.clock.passed() - passed
            if passed <= _WAITED * computed + _SLACK_NS:
                found.append(passed / 1e6)
        if not slow and 2 * len(found) >= runs and self._is_fast():
            self.kept += 1
            return median(found)
        if self.taken >= _PATIENCE and self.kept < _LEAST_SHARE * self.taken:
            raise BusyError(
                f"this machine is too busy to measure on: {self.taken - self.kept} of {self.taken} samples were "
                "disturbed; end other programs and run again"
            )
        return None

    def _is_fast(self) -> bool:
        """Whether the known work takes about as long as at good moments."""
        times = []
        for _ in range(2):
            before = self.clock.computed()
            self.clock.spin()
            times.append(self.clock.computed() - before)
        self._spins += times
        good = sorted(self._spins)[int(_GOOD * len(self._spins))]
        return min(times) <= _SLOW * good


@dataclass(frozen=True)
class Plan:
    """How thoroughly to measure: visits of each model, and the time of a visit."""

    visits: int = 9
    visit_ms: float = 20.0
    least_runs: int = 3
    most_runs: int = 400

    @staticmethod
    def within(minutes: float, models: int) -> Plan:
        """A plan for `models` models that takes about so many minutes on a quiet machine."""
        each_ms = minutes * 60e3 / max(models, 1)
        visits = min(9, max(3, int(each_ms / 8.0)))
        return Plan(visits, each_ms / visits)


def times(
    runs: Mapping[str, Callable[[], object]],
    plan: Plan,
    gate: Gate,
    progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, float]:
    """Milliseconds of one run of each model, visited in turns.

    Of the undisturbed visits of a model the lower quartile counts: what is left of disturbance only adds time.

    Raises:
        BusyError: the machine disturbs nearly all that is measured, or some model in every visit.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    total, done = plan.visits * len(runs), 0
    was_on = gc.isenabled()
    gc.disable()
    try:
        for turn in range(3 * plan.visits):
            for name, run in runs.items():
                if len(found[name]) >= plan.visits or (turn >= plan.visits and len(found[name]) >= 2):
                    continue
                value = _visit(run, plan, gate)
                if value is not None:
                    found[name].append(value)
                    done += 1
                progress("measuring", min(done, total), total)
    finally:
        if was_on:
            gc.enable()
    missing = [name for name, values in found.items() if not values]
    if missing:
        raise BusyError(f"this machine is too busy to measure on: `{missing[0]}` was disturbed every time; run again")
    return {name: _lower_quartile(values) for name, values in found.items()}


def _visit(run: Callable[[], object], plan: Plan, gate: Gate) -> float | None:
    """One visit: a run to warm up and to see how long it takes, then as many as the plan has time for."""
    run()
    before = gate.clock.passed()
    run()
    once_ms = max((gate.clock.passed() - before) / 1e6, 1e-3)
    return gate.sample(run, min(plan.most_runs, max(plan.least_runs, int(plan.visit_ms / once_ms))))


def _lower_quartile(values: list[float]) -> float:
    return values[0] if len(values) == 1 else quantiles(values, n=4, method="inclusive")[0]
