from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.analysis.schedule import Program, Step, least, run, search


@st.composite
def programs(draw: st.DrawFn, most: int = 7) -> Program:
    """Steps that read up to three of the last buffers, some of which they may overlap."""
    sizes = [draw(st.integers(0, 9))]
    made: list[tuple[int, int | None]] = [(0, None)]  # buffers, and the steps that made them
    steps = []
    for number in range(draw(st.integers(1, most))):
        read = draw(st.lists(st.sampled_from(made[-5:]), max_size=3, unique=True))
        writes = tuple(range(len(sizes), len(sizes) + draw(st.integers(1, 2))))
        sizes += [draw(st.integers(0, 9)) for _ in writes]
        donors = {b: draw(st.integers(0, 2)) for b, _ in read if draw(st.booleans())}
        after = tuple({maker for _, maker in read if maker is not None})
        steps.append(Step(tuple(b for b, _ in read), writes, after, draw(st.integers(0, 3)), donors))
        made += [(b, number) for b in writes]
    kept = draw(st.frozensets(st.sampled_from(range(len(sizes)))))
    return Program(tuple(sizes), tuple(steps), frozenset({0}), kept | {*steps[-1].writes})


def orders(program: Program, done: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All valid orders."""
    if len(done) == len(program.steps):
        yield done
    for number, step in enumerate(program.steps):
        if number not in done and all(n in done for n in step.after):
            yield from orders(program, (*done, number))


def peak(program: Program, order: tuple[int, ...] | None = None) -> int:
    return max(moment.alive for moment in run(program, order))


@settings(deadline=None)
@given(programs())
def test_the_search_finds_the_best_of_all_orders(program: Program) -> None:
    found = search(program)
    assert found.peak == min(peak(program, order) for order in orders(program))
    assert found.exact
    assert peak(program, found.order) == found.peak
    assert found.order in set(orders(program))


@settings(deadline=None)
@given(programs(most=20), st.integers(0, 60))
def test_a_search_cut_short_is_valid_and_no_worse_and_knows_a_bound(program: Program, transitions: int) -> None:
    found, best = search(program, transitions), search(program, 3_000)
    assert sorted(found.order) == list(range(len(program.steps)))
    assert peak(program, found.order) == found.peak <= peak(program)
    assert least(program) <= found.bound <= best.peak <= found.peak
    for place, number in enumerate(found.order):
        assert set(program.steps[number].after) <= set(found.order[:place])


def fork(sizes: tuple[int, ...]) -> Program:
    """Two branches from one buffer, that widen and narrow: ``0 -> 1 -> 3``, ``0 -> 2 -> 4``, joined."""
    return Program(
        sizes,
        (
            Step((0,), (1,)),
            Step((0,), (2,)),
            Step((1,), (3,), (0,)),
            Step((2,), (4,), (1,)),
            Step((3, 4), (5,), (2, 3)),
        ),
        frozenset({0}),
        frozenset({5}),
    )


def test_one_branch_is_finished_before_the_other_widens() -> None:
    program = fork((1, 10, 10, 1, 1, 1))
    assert peak(program) == 21, "both are wide at once"
    found = search(program)
    assert (found.peak, found.exact) == (12, True)
    assert found.order in ((0, 2, 1, 3, 4), (1, 3, 0, 2, 4))


def chain(blocks: int) -> Program:
    """Forks one after another, each of which gains by another order."""
    sizes, steps = [1], []
    for block in range(blocks):
        start, first = len(sizes) - 1, len(steps)
        sizes += [10, 10, 1, 1, 1]
        before = (first - 1,) if block else ()
        a, b, c, d, e = range(start + 1, start + 6)
        steps += [
            Step((start,), (a,), before),
            Step((start,), (b,), before),
            Step((a,), (c,), (first,)),
            Step((b,), (d,), (first + 1,)),
            Step((c, d), (e,), (first + 2, first + 3)),
        ]
    return Program(tuple(sizes), tuple(steps), frozenset({0}), frozenset({len(sizes) - 1}))


def test_cuts_keep_long_chains_exact_and_fast() -> None:
    started = time.perf_counter()
    found = search(chain(4000), transitions=200_000)
    assert (found.peak, found.exact) == (12, True)
    assert time.perf_counter() - started < 10


def test_what_the_budget_does_not_reach_goes_to_the_beam() -> None:
    wide = Program(
        (1, *[10, 1] * 60, 1),
        (
            *(Step((0,), (1 + 2 * n,)) for n in range(60)),
            *(Step((1 + 2 * n,), (2 + 2 * n,), (n,)) for n in range(60)),
            Step(tuple(2 + 2 * n for n in range(60)), (121,), tuple(range(60, 120))),
        ),
        frozenset({0}),
        frozenset({121}),
    )
    found = search(wide, 4_000)
    assert peak(wide) == 601
    assert found.peak == 70, "one branch after the other: 59 narrow ends, one wide, and the last narrow one"
    assert search(wide, 0).order == tuple(range(121)), "no time to look at all"


def test_a_result_that_overlaps_its_input_costs_the_larger_of_the_two() -> None:
    def program(donors: dict[int, int]) -> Program:
        step = Step((0,), (1,), donors=donors)
        return Program((8, 6), (step,), frozenset({0}), frozenset({1}))

    assert [moment.alive for moment in run(program({}))] == [14]
    assert [(moment.alive, moment.donor) for moment in run(program({0: 0}))] == [(8, 0)]
    assert [moment.alive for moment in run(program({0: 2}))] == [10]
    assert [moment.alive for moment in run(program({0: 7}))] == [14], "too far apart to gain"


@pytest.mark.parametrize("kept", [True, False])
def test_what_stays_is_not_overwritten(kept: bool) -> None:
    steps = (Step((0,), (1,), donors={0: 0}), Step((0, 1), (2,), (0,), donors={0: 0}))
    program = Program((4, 4, 4), steps, frozenset({0}), frozenset({0, 2} if kept else {2}))
    assert [(m.alive, m.donor, m.left) for m in run(program)] == [
        (8, None, 8),
        (12, None, 8) if kept else (8, 0, 4),
    ]
