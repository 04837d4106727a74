"""The cost model: the kernels that the target's runtime runs for a graph, each priced by the target's machine.

    latency = sum over kernels + a constant of the inference
    energy  = active power x latency + energy per operation and per byte, unless the machine counts its accesses

For one inference on one thread with warm caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.liveness import liveness
from lpcc.analysis.macs import parameters, weight_bytes, weights
from lpcc.analysis.shapes import Shapes, bind
from lpcc.cost.machine import Bound, Network, Price

if TYPE_CHECKING:
    from lpcc.target import Target


@dataclass(frozen=True)
class LayerCost:
    """Cost of one kernel, named after its main node `name` of type `op`; `nodes` are all that it stands for.

    A change of layout that the runtime puts in bears the name of the node that it is made for, and has no `nodes`.

    `inputs` and `outputs` are the shapes of the activations. `bound` says what its latency comes from most, `counts`
    the amounts behind it (cycles, instructions, accesses), where the machine tells.
    """

    name: str
    op: str
    kernel: str
    dtype: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    macs: int
    parameters: int
    weight_bytes: int
    bytes_moved: int
    latency_ms: float
    energy_mj: float
    bound: Bound
    nodes: tuple[str, ...]
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Cost of one inference.

    `peak_activation_bytes` are alive while layer `peak_layer` runs. `assumptions` says what was assumed about open
    dimensions, `warnings` why the network does not fit the target, if so.
    """

    latency_ms: float
    energy_mj: float
    peak_activation_bytes: int
    peak_layer: str
    weight_bytes: int
    macs: int
    parameters: int
    layers: tuple[LayerCost, ...]
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostModel:
    """Predicts what a graph costs on `target`."""

    target: Target

    def estimate(self, graph: gs.Graph, sizes: Mapping[str, int] | None = None) -> Cost:
        """Cost of an annotated graph; `sizes` gives values to open dimensions (see `lpcc.analysis.shapes.bind`).

        Linear in the number of nodes. The bodies of If, Loop and Scan are counted once.
        """
        shapes = bind(graph, sizes)
        steps = self.kernels(graph, shapes)
        resident = weight_bytes(graph)
        network = Network(steps, resident)
        layers = tuple(self._layer(step, shapes, network) for step in steps)
        fixed_ms = self.target.overhead_us.inference / 1e3
        memory = liveness(graph, shapes, steps)
        assumptions = list(shapes.assumptions)
        if any(step.inner for step in steps):
            assumptions.append("nested graphs are counted once")
        return Cost(
            latency_ms=sum(layer.latency_ms for layer in layers) + fixed_ms,
            energy_mj=sum(layer.energy_mj for layer in layers) + fixed_ms * self.target.energy.active_watts,
            peak_activation_bytes=memory.peak_bytes,
            peak_layer="" if memory.peak is None else edit.label(memory.peak.node),
            weight_bytes=resident,
            macs=sum(layer.macs for layer in layers),
            parameters=parameters(graph),
            layers=layers,
            assumptions=tuple(assumptions),
            warnings=self._warnings(resident, memory.peak_bytes),
        )

    def kernels(self, graph: gs.Graph, shapes: Shapes) -> tuple[Kernel, ...]:
        """The kernels that the target's runtime runs for a graph."""
        return kernels(graph, shapes, self.target.runtime, self.target.isa)

    def _layer(self, kernel: Kernel, shapes: Shapes, network: Network) -> LayerCost:
        price = self.target.machine.price(kernel, network, self.target)
        trained = {id(t): t for node in kernel.nodes for t in weights(node)}
        return LayerCost(
            name=edit.label(kernel.node) + ("" if kernel.nodes else " (layout)"),
            op=edit.op(kernel.node) if kernel.nodes else "Transpose",
            kernel=kernel.kind,
            dtype=kernel.scheme if kernel.scheme.endswith("s8") else kernel.dtype,
            inputs=tuple(shapes.of(operand.tensor) or () for operand in kernel.inputs),
            outputs=tuple(shapes.of(operand.tensor) or () for operand in kernel.outputs),
            macs=kernel.macs,
            parameters=sum(shapes.elements(t) for t in trained.values()),
            weight_bytes=kernel.weight_bytes,
            bytes_moved=0 if kernel.kind == "view" else kernel.bytes,
            latency_ms=price.latency_us / 1e3,
            energy_mj=self._energy_mj(kernel, price),
            bound=price.bound,
            nodes=tuple(edit.label(node) for node in kernel.nodes),
            counts=price.counts,
        )

    def _energy_mj(self, kernel: Kernel, price: Price) -> float:
        if price.energy_uj is not None:
            return price.energy_uj * 1e-3
        energy = self.target.energy
        picojoules = energy.pj_per_mac.get(kernel.dtype, 0.0) * kernel.macs + energy.pj_per_byte * kernel.bytes
        return energy.active_watts * price.latency_us * 1e-3 + picojoules * 1e-9

    def _warnings(self, resident: int, peak: int) -> tuple[str, ...]:
        found = []
        flash, sram = self.target.memory.flash_kib, self.target.memory.sram_kib
        if flash is not None and resident > flash * 1024:
            found.append(f"does not fit: weights take {resident / 1024:.0f} KiB, flash has {flash} KiB")
        if sram is not None and peak > sram * 1024:
            found.append(f"does not fit: activations take {peak / 1024:.0f} KiB at their peak, SRAM has {sram} KiB")
        return tuple(found)
