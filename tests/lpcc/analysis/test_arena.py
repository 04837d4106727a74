from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from lpcc.analysis.arena import Arena, Block, place


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    """Blocks of which some take over from one that ends when they begin, as no other does."""
    found: list[Block] = []
    for _ in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 8))
        taken = {block.donor for block in found}
        ends = [n for n, block in enumerate(found) if block.last == first > block.first and n not in taken]
        donor = draw(st.sampled_from([None, *ends]))
        size, apart = draw(st.integers(0, 40)), draw(st.integers(0, 5))
        found.append(Block(size, first, first + draw(st.integers(0, 4)), donor, apart))
    return found


def written_before_read(new: Block, at: int, old: Block, where: int) -> bool:
    """Whether a kernel that goes through both evenly, from either end, stays `apart` bytes from what it must read."""
    starts, ends = at - where, at + new.size - (where + old.size)
    return max(starts, ends) <= -new.apart or min(starts, ends) >= new.apart


def valid(found: list[Block], arena: Arena, alignment: int) -> None:
    for number, (block, at) in enumerate(zip(found, arena.offsets, strict=True)):
        assert at % alignment == 0
        assert 0 <= at <= at + block.size <= arena.size or not block.size
        for other, where in list(zip(found, arena.offsets, strict=True))[:number]:
            alive = block.first <= other.last and other.first <= block.last
            apart = at + block.size <= where or where + other.size <= at
            if not alive or apart or not block.size or not other.size:
                continue
            assert block.donor is not None, "two that are alive overlap"
            assert found[block.donor] is other
            assert written_before_read(block, at, other, where)


@given(blocks(), st.sampled_from([1, 4, 16]))
def test_what_is_alive_at_once_does_not_overlap(found: list[Block], alignment: int) -> None:
    valid(found, place(found, alignment), alignment)


@given(
    st.lists(st.builds(lambda s, f, n: Block(s, f, f + n), st.integers(1, 40), st.integers(0, 8), st.integers(0, 4)))
)
def test_the_arena_holds_what_is_alive_and_no_more_than_all(found: list[Block]) -> None:
    live = max((sum(b.size for b in found if b.first <= t <= b.last) for t in range(14)), default=0)
    assert live <= place(found).size <= sum(b.size for b in found)


def test_the_largest_come_first_and_fill_gaps() -> None:
    found = [Block(4, 0, 1), Block(10, 1, 2), Block(6, 2, 3), Block(4, 3, 4)]
    arena = place(found)
    assert arena == Arena((10, 0, 10, 0), 16)


def test_one_that_takes_over_lies_in_the_place_of_the_other() -> None:
    assert place([Block(8, 0, 1), Block(8, 1, 2, donor=0)]).size == 8
    assert place([Block(16, 0, 1), Block(4, 1, 2, donor=0, apart=3)]).size == 19
    assert place([Block(4, 0, 1), Block(16, 1, 2, donor=0, apart=3)]).size == 19


def test_ten_thousands_of_blocks_and_some_that_live_long() -> None:
    found = [Block(1 + n % 7, n, n + 3) for n in range(20_000)] + [Block(5, n, 20_000) for n in range(0, 15_000, 5)]
    started = time.perf_counter()
    arena = place(found)
    assert time.perf_counter() - started < 10
    assert arena.size <= 3_000 * 5 + 2 * 4 * 7
