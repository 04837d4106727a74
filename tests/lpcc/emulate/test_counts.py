from __future__ import annotations

import pytest

from lpcc.emulate import CLASSES, MAC_CLASSES, Counts, KernelTally, Tally
from lpcc.emulate.counts import parse_line, without_profiler


def tally(**classes: int) -> Tally:
    return Tally(dict.fromkeys(CLASSES, 0) | classes)


def test_sums() -> None:
    found = tally(fp_mac=5, dot=4, mmla=3, int_mac=2, fp=10, branch=20)
    assert (found.total, found.mac, found.other) == (44, 14, 30)


def test_every_multiplying_class_is_a_class() -> None:
    assert set(MAC_CLASSES) < set(CLASSES)


def test_json_has_kernels_only_where_they_were_counted() -> None:
    one = tally(fp=1)
    assert "kernels" not in Counts(one.classes).to_json()
    (kernel,) = Counts(one.classes, (KernelTally(one.classes, "c1", "Conv"),)).to_json()["kernels"]
    assert (kernel["name"], kernel["op"], kernel["total"]) == ("c1", "Conv", 1)


def test_a_line_of_the_plugin() -> None:
    mark, found = parse_line("stop " + " ".join(str(n) for n in range(len(CLASSES))) + "\n")
    assert mark == "stop"
    assert list(found.classes.values()) == list(range(len(CLASSES)))


def test_a_line_that_is_cut_is_no_count() -> None:
    with pytest.raises(ValueError, match="zip"):
        parse_line("stop 1 2")


class TestWithoutProfiler:
    def test_kernels_and_idle_make_the_total(self) -> None:
        kernels = [tally(fp_mac=100, scalar=60_000), tally(fp_mac=50, scalar=50_000)]
        total, idle = tally(fp_mac=150, scalar=110_000), tally(scalar=40_000)
        found = without_profiler(kernels, [2, 4], total, idle)
        assert sum(one.total for one in found) + idle.total == total.total
        assert [one.mac for one in found] == [100, 50]

    def test_more_tensors_take_more_describing(self) -> None:
        kernels = [tally(scalar=60_000), tally(scalar=60_000)]
        few, many = without_profiler(kernels, [2, 4], tally(scalar=110_000), tally(scalar=40_000))
        assert 60_000 - many.total > 60_000 - few.total

    def test_nothing_is_added_and_nothing_below_zero(self) -> None:
        kernels = [tally(scalar=10), tally(scalar=60_000, fp=5)]
        found = without_profiler(kernels, [2, 2], tally(scalar=40_000, fp=9), tally())
        assert found[0].total == 0
        assert found[1].classes["fp"] == 5
