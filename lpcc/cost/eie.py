"""EIE, an engine for sparse matrix-vector products with shared weights: cycles and energy from what is not zero.

Weights are stored by columns as pairs of 4-bit index of a shared weight and 4-bit count of zeros before it; a run of
more than 15 zeros costs a padding entry. Rows are spread over the processing elements. For each input that is not
zero, each element walks through its part of that column, one entry a cycle:

    entries = weights that are not zero + padding
    cycles  = entries x share of inputs that are not zero / (elements x balance)

Han et al., EIE, ISCA 2016. A convolution is such a product for every output position. Weights that exceed the memories
of the elements come from DRAM in every inference; layers whose weights are not 16 shared values run as if they were,
which needs `share-weights` first. Other kernels run on the processor that owns the engine and are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from lpcc.cost.machine import Network, Price
from lpcc.schema import Bound

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel
    from lpcc.target import Target

Positive = Annotated[float, Bound(above=0)]
NonNegative = Annotated[float, Bound(least=0)]
Share = Annotated[float, Bound(above=0)]
Count = Annotated[int, Bound(above=0)]

_PRODUCTS = frozenset({"conv", "winograd", "pointwise", "grouped", "depthwise", "gemm"})
_ENTRY_BITS = 8
_POINTER_BITS = 16
_SHARED = 16  # different weights that 4 bits can name


@dataclass(frozen=True)
class Eie:
    """The engine: `elements` with `weight_kib` for entries each, and energy in pJ per access or operation.

    `balance`: share of cycles in which an element works while the others do. `input_density`: inputs that are not
    zero, where nobody has measured (those of a network's first layer count as dense). `longest_run`: zeros that an
    entry can skip.
    """

    elements: Count
    weight_kib: Count
    longest_run: Count
    balance: Share
    input_density: Share
    pj_entry: NonNegative
    pj_pointer: NonNegative
    pj_mac: NonNegative
    pj_register: NonNegative
    pj_dram_byte: NonNegative
    static_watts: NonNegative

    def price(self, kernel: Kernel, network: Network, target: Target) -> Price:
        """Price of one kernel."""
        form = network.form(kernel) if kernel.kind in _PRODUCTS else None
        if form is None:
            return Price(0.0, "overhead", 0.0)
        loops = kernel.geometry
        columns, rows = loops.depth * loops.groups, loops.cout
        entries = padded_entries(form.count, form.density, max(rows / self.elements, 1.0), self.longest_run)
        first = next((one for one in network.kernels if one.kind in _PRODUCTS), None)
        live = 1.0 if kernel is first else self.input_density
        vectors = loops.rows  # products of the same matrix with another vector
        walked = entries * live * vectors
        cycles = max(walked / (self.elements * self.balance), columns * live * vectors)
        compute = cycles / (target.core.clock_ghz * 1e3)
        stored = entries * _ENTRY_BITS / 8 + self.elements * (columns + 1) * _POINTER_BITS / 8
        outside = stored if stored > self.elements * self.weight_kib * 1024 else 0.0
        memory = outside / (target.memory.bandwidth_gbps * 1e3)
        latency = max(compute, memory)
        counts = {
            "entries": walked,
            "pointers": 2.0 * self.elements * columns * live * vectors,
            "macs": walked,
            "register": 2.0 * walked,
            "dram_bytes": outside,
            "cycles": cycles,
        }
        picojoules = (
            counts["entries"] * self.pj_entry
            + counts["pointers"] * self.pj_pointer
            + counts["macs"] * self.pj_mac
            + counts["register"] * self.pj_register
            + counts["dram_bytes"] * self.pj_dram_byte
        )
        energy = picojoules * 1e-6 + self.static_watts * latency
        return Price(latency, "compute" if compute >= memory else "memory", energy, counts)

    def notes(self, network: Network) -> tuple[str, ...]:
        """What is not counted, and which weights the engine cannot hold as they are."""
        products = [k for k in network.kernels if k.kind in _PRODUCTS]
        forms = [network.form(kernel) for kernel in products]
        unshared = sum(1 for form in forms if form is not None and form.distinct > _SHARED)
        others = sum(1 for k in network.kernels if k.kind != "view" and k.kind not in _PRODUCTS)
        found = [f"{self.input_density:.0%} of the inputs of a layer are taken as not zero"]
        if others:
            found.append(f"{others} kernels are none of the engine's and are not counted")
        if unshared:
            found.append(f"{unshared} layers have more than {_SHARED} different weights: priced as if they were shared")
        return tuple(found)


def padded_entries(count: int, density: float, rows: float, longest: int) -> float:
    """Entries that store `count` weights of which a share `density` is not zero, spread at random.

    An element holds `rows` of each column. A weight k x (longest + 1) or more zeros after the one before it takes k
    paddings; zeros after a column's last weight take none.
    """
    run, entries = longest + 1, 1.0
    for paddings in range(1, int(rows) // run + 1):
        entries += (1 - paddings * run / rows) * (1 - density) ** (paddings * run)
    return count * density * entries
