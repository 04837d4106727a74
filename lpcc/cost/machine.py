"""What prices one kernel: the protocol of cost models, and the numbers that they give and take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel
    from lpcc.analysis.weight_forms import WeightForm
    from lpcc.target import Target

Bound = Literal["compute", "memory", "overhead"]


@dataclass(frozen=True)
class Price:
    """What one kernel costs, and what its latency comes from most.

    `energy_uj` is None where the target's power times latency says it. `counts` are amounts behind the price, such as
    cycles, instructions by class, or accesses by level of memory, for those who want to see.
    """

    latency_us: float
    bound: Bound
    energy_uj: float | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """What the price of a kernel depends on besides itself: all kernels of the network and the bytes of its weights."""

    kernels: tuple[Kernel, ...] = ()
    weight_bytes: int = 0
    _forms: dict[Kernel, WeightForm | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def before(self) -> Mapping[int, Kernel]:
        """The kernel that runs before each one, by ``id``; views, which do nothing, aside."""
        working = [kernel for kernel in self.kernels if kernel.kind != "view"]
        return {id(kernel): last for last, kernel in pairwise(working)}

    def form(self, kernel: Kernel) -> WeightForm | None:
        """Form of a kernel's weights, which are read at the first call; None where it has none."""
        from lpcc.analysis.weight_forms import weight_form

        if kernel not in self._forms:
            self._forms[kernel] = weight_form(kernel.nodes)
        return self._forms[kernel]


class Machine(Protocol):
    """A cost model of one kind of hardware."""

    def price(self, kernel: Kernel, network: Network, target: Target) -> Price:
        """Price of one kernel of a network on a target."""
        ...

    def notes(self, network: Network) -> tuple[str, ...]:
        """What the user should know about the prices of a network: assumptions, and what the hardware cannot run."""
        ...
