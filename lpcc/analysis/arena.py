"""Where each buffer lies in one block of memory, so that those alive at the same time do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_LONG = 1_000
"""Moments beyond which a buffer gets room of its own: what lives so long would be compared with nearly all others."""


@dataclass(frozen=True)
class Block:
    """Bytes that are in use from moment `first` to moment `last`, both included.

    One that takes over from the block number `donor` may overlap that, `apart` bytes behind or ahead of it: then a
    kernel that works its way through both never writes what it has yet to read.
    """

    size: int
    first: int
    last: int
    donor: int | None = None
    apart: int = 0


@dataclass(frozen=True)
class Arena:
    """`offsets` of blocks in bytes, and the size of the whole."""

    offsets: tuple[int, ...]
    size: int


def place(blocks: Sequence[Block], alignment: int = 1) -> Arena:
    """First fit, the largest first, as in TensorFlow Lite for Microcontrollers; or in order of time if that takes less.

    Offsets are multiples of `alignment`. Linear in the blocks, times how many are alive at once.
    """
    live = _most(blocks)
    by_size = _first_fit(blocks, alignment, lambda n: (-blocks[n].size, blocks[n].first, n))
    if by_size.size <= live:
        return by_size
    by_time = _first_fit(blocks, alignment, lambda n: (blocks[n].first, -blocks[n].size, n))
    return min(by_size, by_time, key=lambda arena: arena.size)


def _first_fit(blocks: Sequence[Block], alignment: int, key: Callable[[int], tuple[int, ...]]) -> Arena:
    offsets = [0] * len(blocks)
    floor = 0
    for number, block in enumerate(blocks):
        if block.last - block.first > _LONG:
            offsets[number] = floor
            floor = _up(floor + block.size, alignment)
    size = floor
    there: dict[int, list[int]] = {}
    for number in sorted(range(len(blocks)), key=key):
        block = blocks[number]
        if block.last - block.first > _LONG or not block.size:
            continue
        moments = range(block.first, block.last + 1)
        others = {other for moment in moments for other in there.get(moment, ())}
        taken = sorted(_forbidden(blocks, offsets, number, other) for other in others)
        offset = floor
        for low, high in taken:
            if low >= offset:
                break
            if offset < high:
                offset = _up(high, alignment)
        offsets[number] = offset
        size = max(size, offset + block.size)
        for moment in moments:
            there.setdefault(moment, []).append(number)
    return Arena(tuple(offsets), size)


def _forbidden(blocks: Sequence[Block], offsets: Sequence[int], number: int, other: int) -> tuple[int, int]:
    """The offsets, strictly between two numbers, that a block cannot have because of one that has been placed."""
    block, placed, at = blocks[number], blocks[other], offsets[other]
    apart = block.apart if block.donor == other else placed.apart if placed.donor == number else None
    if apart is None:
        return at - block.size, at + placed.size
    longer = placed.size - block.size
    low, high = at + min(0, longer) - apart, at + max(0, longer) + apart
    return max(low, at - block.size), min(high, at + placed.size)


def _most(blocks: Iterable[Block]) -> int:
    """Bytes in use at once, at most, with blocks that overlap counted once."""
    blocks = tuple(blocks)
    changes: dict[int, int] = {}
    for block in blocks:
        changes[block.first] = changes.get(block.first, 0) + block.size
        changes[block.last + 1] = changes.get(block.last + 1, 0) - block.size
        if block.donor is not None:
            shared = max(0, min(block.size, blocks[block.donor].size) - block.apart)
            changes[block.first] -= shared
            changes[block.first + 1] = changes.get(block.first + 1, 0) + shared
    live = most = 0
    for moment in sorted(changes):
        live += changes[moment]
        most = max(most, live)
    return most


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
