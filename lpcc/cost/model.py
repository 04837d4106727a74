"""The cost model: the kernels that the target's runtime runs for a graph, each priced by the target's machine.

    latency = sum over kernels + a constant of the inference
    energy  = active power x latency + energy per operation and per byte, unless the machine counts its accesses

For one inference on one thread with warm caches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.macs import parameters, stored_bytes, trained, weight_bytes
from lpcc.analysis.memory import Memory, memory
from lpcc.analysis.runtimes import runtime_of
from lpcc.analysis.shapes import Shapes, bind
from lpcc.cost.footprint import misfits
from lpcc.cost.machine import Bound, Network, Price

if TYPE_CHECKING:
    from lpcc.target import Target


@dataclass(frozen=True)
class LayerCost:
    """Cost of one kernel, named after its main node `name` of type `op`; `nodes` are all that it stands for.

    A change of layout that the runtime puts in bears the name of the node that it is made for, and has no `nodes`; its
    `op` is the runtime's (``ReorderInput``, ``Transpose``, ``Reshape``).

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

    `peak_activation_bytes` are alive while layer `peak_layer` runs, those of `peak_tensors`; laid out in one block,
    without moving any, activations take `arena_bytes`. `memory` pairs each kernel, in the order in which they run, with
    the bytes alive meanwhile. `best_peak_bytes` is the peak in the best order of execution that was found,
    `least_peak_bytes` one that no order comes below. `ram_bytes` are the arena, what the runtime itself needs and,
    where the target has no flash for them, the weights; `flash_bytes` the weights and the code. `assumptions` says what
    was assumed about open dimensions, `warnings` why the network does not fit the target, if so.
    """

    latency_ms: float
    energy_mj: float
    peak_activation_bytes: int
    peak_layer: str
    arena_bytes: int
    best_peak_bytes: int
    least_peak_bytes: int
    ram_bytes: int
    flash_bytes: int
    weight_bytes: int
    macs: int
    parameters: int
    layers: tuple[LayerCost, ...]
    memory: tuple[tuple[str, int], ...] = ()
    peak_tensors: tuple[tuple[str, int], ...] = ()
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Totals:
    """What one inference costs in all: as the fields of `Cost`."""

    latency_ms: float
    energy_mj: float
    weight_bytes: int
    macs: int


@dataclass(frozen=True)
class CostModel:
    """Predicts what a graph costs on `target`."""

    target: Target

    def totals(self, steps: Sequence[Kernel], resident: int) -> Totals:
        """What `estimate` says of all layers together, of `kernels` and of the `weight_bytes` of a graph."""
        network = Network(tuple(steps), resident)
        prices = [(step, self.target.machine.price(step, network, self.target)) for step in steps]
        fixed_ms = self.target.overhead_us.inference / 1e3
        return Totals(
            latency_ms=sum(price.latency_us / 1e3 for _, price in prices) + fixed_ms,
            energy_mj=sum(self._energy_mj(*pair) for pair in prices) + fixed_ms * self.target.energy.active_watts,
            weight_bytes=resident,
            macs=sum(step.macs for step in steps),
        )

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
        used = self.memory(graph, shapes, steps)
        peak_layer = "" if used.peak is None else edit.label(used.peak.node)
        ram, flash = self._stored(graph, used)
        assumptions = [*shapes.assumptions, *self.target.machine.notes(network)]
        if any(step.inner for step in steps):
            assumptions.append("nested graphs are counted once")
        return Cost(
            latency_ms=sum(layer.latency_ms for layer in layers) + fixed_ms,
            energy_mj=sum(layer.energy_mj for layer in layers) + fixed_ms * self.target.energy.active_watts,
            peak_activation_bytes=used.peak_bytes,
            peak_layer=peak_layer,
            arena_bytes=used.arena.size,
            best_peak_bytes=used.best.peak,
            least_peak_bytes=used.best.bound,
            ram_bytes=ram,
            flash_bytes=flash,
            weight_bytes=resident,
            macs=sum(layer.macs for layer in layers),
            parameters=parameters(graph),
            layers=layers,
            memory=tuple((layers[moment.step].name, moment.alive) for moment in used.moments),
            peak_tensors=used.peak_tensors,
            assumptions=tuple(assumptions),
            warnings=misfits(self.target, ram, flash, peak_layer),
        )

    def kernels(self, graph: gs.Graph, shapes: Shapes) -> tuple[Kernel, ...]:
        """The kernels that the target's runtime runs for a graph."""
        return kernels(graph, shapes, self.target.runtime, self.target.isa)

    def memory(self, graph: gs.Graph, shapes: Shapes, steps: Sequence[Kernel]) -> Memory:
        """How activations lie in memory while the target's runtime runs these kernels."""
        return memory(graph, shapes, steps, runtime_of(self.target.runtime, self.target.isa))

    def _stored(self, graph: gs.Graph, used: Memory) -> tuple[int, int]:
        """Bytes of RAM and of flash."""
        footprint, weights = self.target.footprint, stored_bytes(graph)
        ram, code = used.arena.size + footprint.sram_bytes(used.steps), footprint.flash_bytes(used.steps)
        in_flash = self.target.kind == "mcu" or self.target.memory.flash_kib is not None
        return (ram, weights + code) if in_flash else (ram + weights, code)

    def _layer(self, kernel: Kernel, shapes: Shapes, network: Network) -> LayerCost:
        price = self.target.machine.price(kernel, network, self.target)
        own = {id(t): t for node in kernel.nodes for t in trained(node)}
        return LayerCost(
            name=edit.label(kernel.node) + ("" if kernel.nodes else " (layout)"),
            op=edit.op(kernel.node) if kernel.nodes else kernel.op,
            kernel=kernel.kind,
            dtype=kernel.scheme if kernel.scheme.endswith("s8") else kernel.dtype,
            inputs=tuple(shapes.of(operand.tensor) or () for operand in kernel.inputs),
            outputs=tuple(shapes.of(operand.tensor) or () for operand in kernel.outputs),
            macs=kernel.macs,
            parameters=sum(shapes.elements(t) for t in own.values()),
            weight_bytes=kernel.weight_bytes,
            bytes_moved=_moved(kernel),
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
        per_mac = energy.pj_per_mac.get(kernel.scheme, energy.pj_per_mac.get(kernel.dtype, 0.0))
        picojoules = per_mac * kernel.macs + energy.pj_per_byte * _moved(kernel)
        return energy.active_watts * price.latency_us * 1e-3 + picojoules * 1e-9


def _moved(kernel: Kernel) -> int:
    """Bytes that a kernel reads and writes; a view touches none."""
    return 0 if kernel.kind == "view" else kernel.bytes
