"""The cheapest choice between float and integers: a minimum cut.

Each unit takes `in_float` or `on_integers`; where a tensor is made on one side and read on the other, it is converted,
once for all its readers there. The least total is a minimum cut of a network with a vertex for each unit and two for
each tensor (Boykov, Veksler and Zabih, Fast approximate energy minimization via graph cuts, 2001, for two labels, where
it is exact):

    source -> unit                in_float          cut where the unit computes in float
    unit -> sink                  on_integers       cut where it computes on integers
    maker -> out -> reader        to_float, inf     cut where a reader wants float of what is made on integers
    reader -> in -> maker         inf, to_integers  cut where a reader wants integers of what is made in float

The source's side of the cut is what runs on integers. Makers and readers that are no units compute in float.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

_TOTAL = 1e8
"""What all costs are scaled to: flows are whole numbers of 32 bits."""
_INFINITE = 2 * 10**8

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Choice:
    """What a unit costs on either side."""

    in_float: float
    on_integers: float


@dataclass(frozen=True)
class Wire:
    """A tensor between units, who makes it, who reads it (None: what computes in float), and its conversions."""

    maker: Hashable | None
    readers: Sequence[Hashable | None]
    to_integers: float
    to_float: float


def cheapest(choices: Mapping[Key, Choice], wires: Iterable[Wire]) -> set[Key]:
    """Those of `choices` that compute on integers where the total is least; of several such sets the smallest one."""
    wires = list(wires)
    total = sum(max(c.in_float, c.on_integers) for c in choices.values())
    total += sum(wire.to_integers + wire.to_float for wire in wires)
    if not choices or total <= 0:
        return set()
    network = _Network(_TOTAL / total)
    vertex: dict[Hashable, int] = {key: network.vertex() for key in choices}
    for key, choice in choices.items():
        network.edge(network.source, vertex[key], choice.in_float)
        network.edge(vertex[key], network.sink, choice.on_integers)
    for wire in wires:
        maker = network.sink if wire.maker is None else vertex[wire.maker]
        readers = [network.sink if reader is None else vertex[reader] for reader in wire.readers]
        if wire.maker is not None:
            out = network.vertex()
            network.edge(maker, out, wire.to_float)
            for reader in readers:
                network.edge(out, reader, None)
        into = network.vertex()
        network.edge(into, maker, wire.to_integers)
        for reader in readers:
            if reader != network.sink:
                network.edge(reader, into, None)
    reached = network.source_side()
    return {key for key in choices if vertex[key] in reached}


class _Network:
    """Vertices and edges with capacities."""

    source, sink = 0, 1

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._count = 2
        self._edges: dict[tuple[int, int], int] = {}

    def vertex(self) -> int:
        """A new vertex."""
        self._count += 1
        return self._count - 1

    def edge(self, start: int, end: int, capacity: float | None) -> None:
        """Add an edge; None: it cannot be cut."""
        amount = _INFINITE if capacity is None else round(capacity * self._scale)
        found = self._edges.get((start, end), 0)
        self._edges[start, end] = min(_INFINITE, found + amount)

    def source_side(self) -> set[int]:
        """The vertices that the source still reaches when the flow is at its greatest."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow

        rows, columns = np.array(list(self._edges), dtype=np.int32).T
        capacities = np.array(list(self._edges.values()), dtype=np.int32)
        graph = csr_array((capacities, (rows, columns)), shape=(self._count, self._count))
        flow = maximum_flow(graph, self.source, self.sink).flow
        left = (graph - flow).tocsr()  # a flow is negative against its direction: what could be given back
        left.eliminate_zeros()
        reached, waiting = {self.source}, deque([self.source])
        while waiting:
            row = waiting.popleft()
            for place in range(left.indptr[row], left.indptr[row + 1]):
                column = int(left.indices[place])
                if left.data[place] > 0 and column not in reached:
                    reached.add(column)
                    waiting.append(column)
        return reached
