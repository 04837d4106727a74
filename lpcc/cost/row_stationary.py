"""A row-stationary array as Eyeriss: latency and energy of a convolution from the array's geometry.

A processing element keeps a row of a filter and slides it along a row of the input. R elements above each other make a
window of R rows; each column makes another row of the output; what is left of the height holds further input or output
channels. So with `rows` x `columns` elements in use

    cycles = multiply-accumulates / (rows x columns x efficiency)

Energy counts where operands come from: the register files of an element, its neighbours, the global buffer, DRAM.
Chen, Emer, Sze: Eyeriss, ISCA 2016; Chen, Krishna, Emer, Sze, JSSC 52 (2017).

Pooling runs as a convolution whose filters are diagonal, as the array has nothing else for it. Sums and activations of
single elements cost no time: they are done as results leave the array. All in 16 bits, whatever the graph's format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Annotated, Literal

from lpcc.cost.machine import Network, Price
from lpcc.schema import Bound

if TYPE_CHECKING:
    from lpcc.analysis.geometry import Geometry
    from lpcc.analysis.kernels import Kernel
    from lpcc.target import Target

Positive = Annotated[float, Bound(above=0)]
NonNegative = Annotated[float, Bound(least=0)]
Count = Annotated[int, Bound(above=0)]

_PRODUCTS = frozenset({"conv", "winograd", "pointwise", "grouped", "depthwise", "gemm", "matmul"})
_WORD = 2  # bytes


@dataclass(frozen=True)
class RowStationary:
    """The array, its memories (in 16-bit words) and its energy (pJ per multiply-accumulate and per word moved).

    `folding` says what happens to sizes that the array does not divide: ``exact`` takes fewer elements, so that they
    do, as mappers like Timeloop; ``padded`` spreads them evenly over the fewest folds. `efficiency` is the share of
    time in which elements that are in use multiply.
    """

    rows: Count
    columns: Count
    folding: Literal["exact", "padded"]
    efficiency: Positive
    input_words: Count
    weight_words: Count
    sum_words: Count
    buffer_kib: Count
    pj_mac: NonNegative
    pj_register: NonNegative
    pj_neighbour: NonNegative
    pj_buffer: NonNegative
    pj_dram: NonNegative

    def price(self, kernel: Kernel, network: Network, target: Target) -> Price:  # noqa: ARG002
        """Price of one kernel; its energy is that of its accesses."""
        if kernel.kind == "view" or kernel.geometry.is_empty:
            return Price(0.0, "overhead", 0.0)
        loops = _loops(kernel)
        if loops is None:
            moved = float(sum(o.elements for o in (*kernel.inputs, *kernel.outputs)))
            return Price(0.0, "overhead", moved * self.pj_buffer * 1e-6, {"buffer": moved})
        cycles = self.cycles(loops)
        counts = self._accesses(loops, *self.used(loops))
        picojoules = (
            counts["macs"] * self.pj_mac
            + counts["register"] * self.pj_register
            + counts["neighbour"] * self.pj_neighbour
            + counts["buffer"] * self.pj_buffer
            + counts["dram"] * self.pj_dram
        )
        compute = cycles / (target.core.clock_ghz * 1e3)
        memory = counts["dram"] * _WORD / (target.memory.bandwidth_gbps * 1e3)
        waits = self.folding == "padded" and memory > compute  # mappers take DRAM as fast enough
        counts["cycles"] = cycles
        return Price(memory if waits else compute, "memory" if waits else "compute", picojoules * 1e-6, counts)

    def notes(self, network: Network) -> tuple[str, ...]:
        """What takes no time in this model."""
        free = sum(1 for k in network.kernels if k.kind != "view" and _loops(k) is None)
        if not free:
            return ()
        return (f"{free} kernels that work on single elements take no time: done as results leave the array",)

    def cycles(self, loops: Geometry) -> float:
        """Clock cycles of a convolution."""
        rows, columns = self.used(loops)
        return _macs(loops) / (rows * columns * self.efficiency)

    def used(self, loops: Geometry) -> tuple[float, float]:
        """Rows and columns of the array in use, on average over all folds."""
        window = self._share(loops.kh, self.rows)
        sets = max(int(self.rows / window), 1)
        along = loops.oh if loops.oh > 1 else loops.cout  # a matrix-vector product spreads its outputs
        filled = max(self._share(loops.cin, sets), self._share(loops.cout if loops.oh > 1 else 1, sets))
        return window * filled, self._share(along, self.columns)

    def _share(self, size: int, room: int) -> float:
        """How many of `size` are worked on at once where there is room for `room`."""
        if self.folding == "exact":
            return float(max(part for part in range(1, min(size, room) + 1) if size % part == 0))
        return size / ceil(size / room)

    def _accesses(self, loops: Geometry, rows: float, columns: float) -> dict[str, float]:
        """Words that move at each level of memory.

        An element works on as many filters and channels at once as its register files hold. What the buffer cannot
        keep comes from DRAM again for every fold.
        """
        macs = _macs(loops)
        filters = min(loops.cout, self.sum_words, max(self.weight_words // loops.kw, 1))
        channels = max(1, min(loops.cin, self.input_words // loops.kw, self.weight_words // (filters * loops.kw)))
        sets = max(rows / loops.kh, 1.0)
        outputs = float(loops.batch * loops.groups * loops.cout * loops.pixels)
        inputs = float(loops.batch * loops.groups * loops.cin * loops.ih * loops.iw)
        weights = float(loops.groups * loops.cin * loops.cout * loops.taps)
        strips = ceil(loops.oh / columns) if loops.oh > 1 else 1
        rounds = ceil(loops.cout / filters)
        sums = ceil(loops.cin / (channels * min(sets, loops.cin)))
        halo = 1.0 if strips == 1 else (columns * loops.sh + max(loops.kh - loops.sh, 0)) / (columns * loops.sh)
        room = self.buffer_kib * 1024 / _WORD
        again = 1 if min(inputs / max(loops.batch * loops.groups, 1), weights / loops.groups) <= room else strips
        return {
            "macs": macs,
            "register": 4.0 * macs,  # input, weight, sum read and written
            "neighbour": macs / loops.kw + inputs * rounds + weights * strips,
            "buffer": inputs * halo * rounds + weights * strips + outputs * (2 * sums - 1),
            "dram": inputs * halo + weights * again + outputs,
        }


def _macs(loops: Geometry) -> float:
    return float(loops.batch * loops.groups * loops.cout * loops.depth * loops.pixels)


def _loops(kernel: Kernel) -> Geometry | None:
    """Loop bounds of a kernel as a convolution; None where it is none."""
    g = kernel.geometry
    if kernel.kind in _PRODUCTS:
        return g
    if kernel.kind != "pool":
        return None
    if "Global" in kernel.op:  # a window of all; its channels stand where those of a convolution do
        return replace(g, kh=g.ih, kw=g.iw)
    return replace(g, groups=1, cin=g.groups, cout=g.groups)
