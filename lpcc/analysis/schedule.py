"""In which order to run the steps of a network so that the least memory is alive at once.

The state of a run is the set of steps that are done: what is alive then does not depend on how it came about. So the
best order is a shortest path through those sets, where the length of a path is its highest memory; best-first search
finds it (Liberis and Lane 2019, "Neural networks on microcontrollers: saving memory at inference via operator
reordering"; Ahn et al. 2020, SERENITY, for cuts and budget). Where a single tensor joins two halves of the network each
half is solved by itself, which keeps chains of blocks linear. Where the sets become too many a beam search goes on, and
the highest memory that no order can avoid says how far off it may be.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

TRANSITIONS = 20_000
"""Steps that a search tries in all by default: about a fifth of a second."""
_SMALL = 64
"""Steps up to which a network is searched as a whole where no cut is certain to lose nothing."""
_WIDEST_BEAM = 32
_LONGEST = 2_000
"""Steps between two cuts beyond which the order stays as it is."""
_CHOICES = 24
"""Steps among which a beam chooses next."""


@dataclass(frozen=True)
class Step:
    """Something to run: the buffers that it reads and writes, and the steps, by number, that it comes `after`.

    `scratch` are bytes that it needs beside them while it runs.
    `donors`: buffers that its first written one may overlap where nobody reads them afterwards, each with the bytes by
    which the two must be apart.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    after: tuple[int, ...] = ()
    scratch: int = 0
    donors: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Steps in a valid order, and the bytes of the buffers, by number, that they work on.

    `given` buffers are there from the start; `kept` ones stay to the end, and so do given ones that nobody reads.
    """

    sizes: tuple[int, ...]
    steps: tuple[Step, ...]
    given: frozenset[int] = frozenset()
    kept: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Moment:
    """One step of a run: `alive` bytes while it runs, `left` after it; its first written buffer overlaps `donor`."""

    step: int
    alive: int
    left: int
    donor: int | None = None


@dataclass(frozen=True)
class Schedule:
    """An order of steps, the bytes alive at its peak, and the `bound` in bytes below which no order comes."""

    order: tuple[int, ...]
    peak: int
    bound: int

    @property
    def exact(self) -> bool:
        """Whether no order needs less."""
        return self.peak == self.bound


def run(program: Program, order: Sequence[int] | None = None) -> Iterator[Moment]:
    """What is alive at each step, in `order` or as the steps stand. Linear time."""
    waiting = _readers(program)
    stays = program.kept | {buffer for buffer in program.given if not waiting[buffer]}
    live = sum(program.sizes[buffer] for buffer in program.given)
    for number in range(len(program.steps)) if order is None else order:
        step = program.steps[number]
        for buffer in step.reads:
            waiting[buffer] -= 1
        dying = [b for b in step.reads if not waiting[b] and b not in stays]
        written = sum(program.sizes[b] for b in step.writes)
        donor, saved = _overlap(program.sizes, step, dying)
        alive = live + written - saved + step.scratch
        live += written - sum(program.sizes[b] for b in dying)
        live -= sum(program.sizes[b] for b in step.writes if not waiting[b] and b not in stays)
        yield Moment(number, alive, live, donor)


def least(program: Program) -> int:
    """Bytes that no order avoids: what the hungriest step needs by itself. Linear time."""
    return max((_alone(program, step) for step in program.steps), default=sum(program.sizes[b] for b in program.given))


def search(program: Program, transitions: int = TRANSITIONS) -> Schedule:
    """The order with the lowest peak that is found within a number of `transitions`; never worse than the one given.

    Linear in the number of steps beyond what the search itself takes.
    """
    order = list(range(len(program.steps)))
    moments = list(run(program))
    floor = least(program)
    peak = max((moment.alive for moment in moments), default=floor)
    if peak <= floor:
        return Schedule(tuple(order), peak, peak)
    segments = _segments(program)
    closed = all(segment.closed for segment in segments)
    if not closed and len(order) <= _SMALL:
        segments, closed = [_Segment(0, len(order), closed=True)], True
    highest = {segment: max(moment.alive for moment in moments[segment.start : segment.stop]) for segment in segments}
    last = [len(order) if b in program.kept else -1 for b in range(len(program.sizes))]
    for number, step in enumerate(program.steps):
        for buffer in step.reads:
            last[buffer] = max(last[buffer], number)
    found = bound = floor
    for segment in sorted(segments, key=lambda s: -highest[s]):
        if highest[segment] <= found:
            break
        if segment.stop - segment.start > _LONGEST:
            found = highest[segment]
            continue
        live = moments[segment.start - 1].left if segment.start else sum(program.sizes[b] for b in program.given)
        part = _Part(program, segment, live, last)
        best, height, proven, spent = part.best(found, transitions // 2)
        if best is None:
            best, height, more = part.beam(found, transitions // 2)
            spent += more
        transitions -= spent
        if best is not None and height < highest[segment]:
            order[segment.start : segment.stop] = best
        else:
            height = highest[segment]
        found, bound = max(found, height), max(bound, proven)
    return Schedule(tuple(order), found, min(found, bound) if closed else floor)


def _overlap(sizes: Sequence[int], step: Step, dying: Sequence[int]) -> tuple[int | None, int]:
    """The buffer that the first written one overlaps best, and the bytes that this saves."""
    best: int | None = None
    saved = 0
    if step.donors and step.writes:
        size = sizes[step.writes[0]]
        for buffer in dying:
            if buffer in step.donors:
                gain = min(size, sizes[buffer]) - step.donors[buffer]
                if gain > saved:
                    best, saved = buffer, gain
    return best, saved


def _alone(program: Program, step: Step) -> int:
    read = sum(program.sizes[b] for b in step.reads)
    written = sum(program.sizes[b] for b in step.writes)
    _, saved = _overlap(program.sizes, step, [b for b in step.reads if b not in program.kept])
    return read + written - saved + step.scratch


@dataclass(frozen=True)
class _Segment:
    """Steps from `start` to `stop`; `closed` if every one leads from the step before them to the last of them."""

    start: int
    stop: int
    closed: bool


def _segments(program: Program) -> list[_Segment]:
    """The steps between those after which a single buffer is alive, apart from results that are kept.

    If all segments are closed, cutting there loses nothing: no order can mix the two sides of a cut.
    """
    waiting = _readers(program)
    alive = {buffer for buffer in program.given if buffer not in program.kept}
    found: list[_Segment] = []
    start = 0
    for place, step in enumerate(program.steps):
        alive.update(b for b in step.writes if waiting[b] and b not in program.kept)
        for buffer in step.reads:
            waiting[buffer] -= 1
            if not waiting[buffer]:
                alive.discard(buffer)
        last = place == len(program.steps) - 1
        if last or (len(alive) == 1 and alive <= {*step.writes, *step.reads}):
            found.append(_Segment(start, place + 1, _closed(program, start, place + 1)))
            start = place + 1
    return found


def _closed(program: Program, start: int, stop: int) -> bool:
    steps = program.steps[start:stop]
    leads = {number for step in steps for number in step.after}
    return (start == 0 or all(any(n >= start - 1 for n in step.after) for step in steps)) and (
        stop == len(program.steps) or all(number in leads for number in range(start, stop - 1))
    )


def _readers(program: Program) -> list[int]:
    """How many steps read each buffer."""
    found = [0] * len(program.sizes)
    for step in program.steps:
        for buffer in step.reads:
            found[buffer] += 1
    return found


class _Part:
    """The search for the order of one segment. Sets of steps are bits of an int."""

    def __init__(self, program: Program, segment: _Segment, live: int, last: Sequence[int]) -> None:
        """`live` bytes are alive when it starts; `last` is the step that reads each buffer last."""
        self.start, self.count, self.live = segment.start, segment.stop - segment.start, live
        self.sizes = program.sizes
        self.steps = program.steps[segment.start : segment.stop]
        self.readers: dict[int, int] = {}
        for bit, step in enumerate(self.steps):
            for buffer in step.reads:
                self.readers[buffer] = self.readers.get(buffer, 0) | 1 << bit
        self.stays = {b for step in self.steps for b in (*step.reads, *step.writes) if last[b] >= segment.stop}
        self.needs: list[int] = []
        self.next: list[list[int]] = [[] for _ in self.steps]
        for bit, step in enumerate(self.steps):
            before = {n - segment.start for n in step.after if n >= segment.start}
            self.needs.append(sum(1 << n for n in before))
            for n in before:
                self.next[n].append(bit)
        self.written = [sum(self.sizes[b] for b in step.writes) for step in self.steps]
        self.lost = [
            sum(self.sizes[b] for b in step.writes if b not in self.readers and b not in self.stays)
            for step in self.steps
        ]
        self.first = tuple(bit for bit, need in enumerate(self.needs) if not need)

    def move(self, done: int, live: int, bit: int) -> tuple[int, int]:
        """Bytes alive while a step runs and after it, once the steps in `done` have run."""
        step = self.steps[bit]
        after = done | 1 << bit
        dying = [b for b in step.reads if b not in self.stays and not self.readers[b] & ~after]
        _, saved = _overlap(self.sizes, step, dying)
        alive = live + self.written[bit] - saved + step.scratch
        return alive, live + self.written[bit] - self.lost[bit] - sum(self.sizes[b] for b in dying)

    def ready(self, done: int, ready: tuple[int, ...], bit: int) -> tuple[int, ...]:
        """What can run next once `bit` has run too; first what that has made possible."""
        new = [n for n in self.next[bit] if not self.needs[n] & ~done]
        return tuple(new) + tuple(n for n in ready if n != bit)

    def best(self, floor: int, transitions: int) -> tuple[list[int] | None, int, int, int]:
        """The order with the lowest peak, that peak, a bound for all orders and the transitions tried.

        Peaks below `floor` count as `floor`. No order, and what was proven by then, where `transitions` are not enough.
        """
        full = (1 << self.count) - 1
        heap: list[tuple[int, int, int, int, tuple[int, ...]]] = [(floor, 0, 0, self.live, self.first)]
        came: dict[int, tuple[int, int]] = {}
        reached: dict[int, int] = {0: floor}
        spent = 0
        while heap:
            peak, depth, done, live, ready = heapq.heappop(heap)
            if done == full:
                return self._path(came, full), peak, peak, spent
            if peak > reached[done]:
                continue
            if spent >= transitions:
                return None, 0, peak, spent
            moves = []
            for bit in ready:
                spent += 1
                alive, left = self.move(done, live, bit)
                if alive <= peak and left <= live:  # costs nothing now, and cannot be cheaper later
                    moves = [(alive, left, bit)]
                    break
                moves.append((alive, left, bit))
            for alive, left, bit in moves:
                after, height = done | 1 << bit, max(peak, alive)
                if height < reached.get(after, height + 1):
                    reached[after] = height
                    came[after] = (done, bit)
                    heapq.heappush(heap, (height, depth - 1, after, left, self.ready(after, ready, bit)))
        raise AssertionError("the steps of a program are in a valid order")

    def beam(self, floor: int, transitions: int) -> tuple[list[int] | None, int, int]:
        """A good order, its peak and the transitions tried; no order where `transitions` do not allow any beam."""
        width = min(_WIDEST_BEAM, transitions // (self.count * 4))
        if width < 1:
            return None, 0, 0
        states: list[tuple[int, int, int, tuple[int, ...]]] = [(floor, self.live, 0, self.first)]
        came: dict[int, tuple[int, int]] = {}
        spent = 0
        for _ in range(self.count):
            found: dict[int, tuple[int, int, int, tuple[int, ...]]] = {}
            for peak, live, done, ready in states:
                for bit in ready[:_CHOICES]:
                    spent += 1
                    alive, left = self.move(done, live, bit)
                    after, height = done | 1 << bit, max(peak, alive)
                    if after not in found or (height, left) < found[after][:2]:
                        came[after] = (done, bit)
                        found[after] = (height, left, after, self.ready(after, ready, bit))
            states = heapq.nsmallest(width, found.values(), key=lambda state: state[:2])
        return self._path(came, states[0][2]), states[0][0], spent

    def _path(self, came: Mapping[int, tuple[int, int]], done: int) -> list[int]:
        order = []
        while done:
            done, bit = came[done]
            order.append(self.start + bit)
        return order[::-1]
