from __future__ import annotations

import numpy as np

from lpcc.targets.fit.hierarchy import Level, Sample, fit

ALL = Level("all", 1.0, 1.0, 1.0)
GROUPS = np.array([0, 0, 1])


def test_coefficients_of_two_devices_are_found() -> None:
    rng = np.random.default_rng(0)
    amounts = rng.lognormal(size=(40, 3))
    truth = np.array([2.0, 0.5, 3.0])
    fast, slow = Level("fast", 0.0, 0.5, 1.0), Level("slow", 0.0, 0.5, 1.0)
    samples = [Sample(row, (ALL, fast), float(row @ truth)) for row in amounts[:20]]
    samples += [Sample(row, (ALL, slow), 3 * float(row @ truth)) for row in amounts[20:]]
    found = fit(samples, np.ones(3), GROUPS, noise=0.01)
    assert np.allclose(found.of((ALL, fast)), truth, rtol=0.02)
    assert np.allclose(found.of((ALL, slow)), 3 * truth, rtol=0.02)


def test_what_no_sample_has_stays_where_it_was() -> None:
    level = Level("all", 0.5, 0.0, 0.0)
    found = fit([Sample(np.array([1.0, 0.0]), (level,), 5.0)], np.array([1.0, 7.0]), np.array([0, 0]), noise=0.01)
    assert np.allclose(found.of((level,)), [5.0, 7.0], rtol=0.01)


def test_an_outlier_counts_for_little() -> None:
    samples = [Sample(np.ones(1), (ALL,), 1.0)] * 9 + [Sample(np.ones(1), (ALL,), 100.0)]
    found = fit(samples, np.ones(1), np.array([0]))
    assert abs(found.of((ALL,))[0] - 1) < 0.05


def test_a_level_that_was_not_seen_does_not_deviate() -> None:
    found = fit([Sample(np.ones(1), (ALL,), 2.0)], np.ones(1), np.array([0]), noise=0.01)
    assert found.of((ALL, Level("other", 1.0, 1.0, 1.0))) == found.of((ALL,))
