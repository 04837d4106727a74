"""What a pass could make of each layer, and what that would gain and lose: asked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lpcc.cost import Totals

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.pipeline.context import Context


@dataclass(frozen=True)
class Proposal:
    """The fastest that a layer can become within an error."""

    layer: str
    method: str
    rank: tuple[int, ...]
    error: float
    """Share of the energy that is lost."""
    of_outputs: bool
    """Whether that is the energy of what the layer makes of images, or that of its weights."""
    before: Totals
    """The layer with what runs in its kernel; of the bytes, those of its weights."""
    after: Totals

    @property
    def speedup(self) -> float:
        """Latency before over latency after; 1 where it takes no time."""
        return self.before.latency_ms / self.after.latency_ms if self.after.latency_ms > 0 else 1.0


@dataclass(frozen=True)
class Proposals:
    """By the order of the graph what could be made of its layers, why others would be left alone, and what it costs."""

    layers: tuple[Proposal, ...]
    left: Mapping[str, str]
    total: Totals
    """The whole network as it is."""

    @property
    def latency_ms(self) -> float:
        """The network with all of them, if each gained there what it gains alone."""
        return self.total.latency_ms + sum(each.after.latency_ms - each.before.latency_ms for each in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the network with all of them."""
        return self.total.macs + sum(each.after.macs - each.before.macs for each in self.layers)


@runtime_checkable
class ProposesFactors(Protocol):
    """A pass that puts several smaller layers in the place of one."""

    def proposals(self, graph: gs.Graph, ctx: Context, error: float, sizes: Mapping[str, int]) -> Proposals:
        """What each layer of an annotated graph can become on the target; the graph stays as it is.

        `error` is what one layer may lose. `sizes` are those of open dimensions, as `lpcc.analysis.shapes.bind` takes
        them.

        Raises:
            UsageError: there is no target.
        """
        ...
