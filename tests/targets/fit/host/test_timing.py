from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lpcc.targets.fit.host.timing import BusyError, Gate, Plan, SystemClock, times

_SPIN_NS = 100_000


class FakeClock:
    """A machine with one program on it, and now and then another: `waits` says for how long this one has to wait."""

    def __init__(self, waits: Callable[[], int] = lambda: 0, slow: Callable[[int], bool] = lambda _now: False) -> None:
        self.now = 0
        self.used = 0
        self._waits, self._slow = waits, slow

    def passed(self) -> int:
        return self.now

    def computed(self) -> int:
        return self.used

    def spin(self) -> None:
        self.work(_SPIN_NS)

    def work(self, nanoseconds: int) -> None:
        nanoseconds = nanoseconds * 2 if self._slow(self.now) else nanoseconds
        self.used += nanoseconds
        self.now += nanoseconds + self._waits()


MODELS = {"small": 50_000, "large": 3_000_000}


def runs(clock: FakeClock) -> dict[str, Callable[[], object]]:
    return {name: (lambda size=size: clock.work(size)) for name, size in MODELS.items()}


def test_a_quiet_machine() -> None:
    clock = FakeClock()
    found = times(runs(clock), Plan(visits=3, visit_ms=5.0), Gate(clock))
    assert found == pytest.approx({"small": 0.05, "large": 3.0})


def test_runs_that_waited_do_not_count() -> None:
    rng = np.random.default_rng(0)
    clock = FakeClock(waits=lambda: 4_000_000 if rng.random() < 0.3 else 0)
    gate = Gate(clock)
    found = times(runs(clock), Plan(visits=5, visit_ms=20.0, least_runs=7), gate)
    assert found == pytest.approx({"small": 0.05, "large": 3.0})


def test_moments_in_which_the_core_is_slow_do_not_count() -> None:
    clock = FakeClock(slow=lambda now: now % 400_000_000 > 300_000_000)
    gate = Gate(clock)
    found = times(runs(clock), Plan(visits=9, visit_ms=20.0), gate)
    assert found == pytest.approx({"small": 0.05, "large": 3.0})
    assert 0 < gate.kept < gate.taken


def test_a_machine_that_is_never_quiet_is_an_error_in_one_line() -> None:
    clock = FakeClock(waits=lambda: 50_000_000)
    with pytest.raises(BusyError, match="too busy to measure on") as caught:
        times(runs(clock), Plan(), Gate(clock))
    assert "\n" not in str(caught.value)


def test_tells_its_progress() -> None:
    clock, told = FakeClock(), list[tuple[str, int, int]]()
    times(runs(clock), Plan(visits=2), Gate(clock), lambda *step: told.append(step))
    assert told[-1] == ("measuring", 4, 4)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_plan_spends_the_time_that_there_is() -> None:
    plan = Plan.within(2.0, 500)
    assert plan.visits * plan.visit_ms * 500 == pytest.approx(120_000)
    assert Plan.within(0.01, 500).visits >= 3


def test_this_machine_has_such_clocks() -> None:
    clock = SystemClock()
    passed, computed = clock.passed(), clock.computed()
    clock.spin()
    assert clock.passed() > passed
    assert clock.computed() > computed
