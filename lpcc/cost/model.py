"""The cost model: a roofline for each kernel that the runtime runs, or the target's fitted table where it has one.

    latency = max(operations / rate, bytes / bandwidth) + overhead of the call
    energy  = active power x latency + energy per operation and per byte

For one inference on one thread with warm caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.liveness import liveness
from lpcc.analysis.macs import parameters, weight_bytes, weights
from lpcc.analysis.shapes import Shapes, bind
from lpcc.cost.kinds import MAC_KINDS

if TYPE_CHECKING:
    from lpcc.target import Compute, Target

Bound = Literal["compute", "memory", "overhead"]


@dataclass(frozen=True)
class LayerCost:
    """Cost of one kernel, named after its main node `name` of type `op`; `nodes` are all that it stands for.

    A change of layout that the runtime puts in bears the name of the node that it is made for, and has no `nodes`.

    `inputs` and `outputs` are the shapes of the activations. `bound` says what its latency comes from most.
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
        layers = tuple(self._layer(step, shapes, resident) for step in steps)
        memory = liveness(graph, shapes, steps)
        assumptions = list(shapes.assumptions)
        if any(step.inner for step in steps):
            assumptions.append("nested graphs are counted once")
        return Cost(
            latency_ms=sum(layer.latency_ms for layer in layers),
            energy_mj=sum(layer.energy_mj for layer in layers),
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
        return kernels(graph, shapes, self.target.runtime, x86="x86" in self.target.isa)

    def latency_us(self, kernel: Kernel, resident: int = 0) -> tuple[float, Bound]:
        """Microseconds of one kernel and what they come from most.

        `resident` are the bytes of all weights of the network: where they exceed the cache, every inference reads
        them from main memory again.
        """
        overhead = self._overhead_us(kernel)
        compute = self._compute_us(kernel)
        memory = self._memory_us(kernel, resident)
        fitted = self._fitted_us(kernel)
        total = max(compute, memory) + overhead if fitted is None else fitted
        if overhead >= max(compute, memory):
            return total, "overhead"
        return total, "compute" if compute >= memory else "memory"

    def _layer(self, kernel: Kernel, shapes: Shapes, resident: int) -> LayerCost:
        micros, bound = self.latency_us(kernel, resident)
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
            latency_ms=micros / 1e3,
            energy_mj=self._energy_mj(kernel, micros),
            bound=bound,
            nodes=tuple(edit.label(node) for node in kernel.nodes),
        )

    def _overhead_us(self, kernel: Kernel) -> float:
        overhead = self.target.overhead_us
        if kernel.kind == "view":
            return overhead.view
        if kernel.kind in ("quantize", "dequantize") and overhead.quantize is not None:
            return overhead.quantize
        return overhead.kernel

    def _compute_us(self, kernel: Kernel) -> float:
        if kernel.kind == "view":
            return 0.0
        rates = self._rates(kernel)
        if kernel.kind in MAC_KINDS:
            per_cycle = rates.macs_per_cycle * rates.efficiency.get(kernel.kind, rates.efficiency["conv"])
            cycles = _padded(kernel, rates.channel_multiple) / per_cycle
        else:
            elements = rates.elements_per_cycle
            cycles = kernel.elements / elements.get(kernel.kind, elements["elementwise"])
        return cycles / (self.target.core.clock_ghz * 1e3)

    def _memory_us(self, kernel: Kernel, resident: int) -> float:
        if kernel.kind == "view":
            return 0.0
        memory = self.target.memory
        main = memory.bandwidth_gbps * 1e3  # bytes per microsecond
        cached = (memory.cache_bandwidth_gbps or memory.bandwidth_gbps) * 1e3
        room = memory.cache_kib * 1024
        activations = kernel.bytes - kernel.weight_bytes
        return activations / (cached if activations <= room else main) + kernel.weight_bytes / (
            cached if resident <= room else main
        )

    def _fitted_us(self, kernel: Kernel) -> float | None:
        """Latency by the target's kernel table; None where that has no row for this kernel."""
        table = self.target.tables.coefficients
        terms = table.get((kernel.kind, kernel.scheme)) or table.get((kernel.kind, kernel.dtype))
        if terms is None:
            return None
        quantity = {
            "macs": kernel.macs,
            "padded_macs": _padded(kernel, self._rates(kernel).channel_multiple),
            "elements": kernel.elements,
            "bytes": kernel.bytes,
            "weight_bytes": kernel.weight_bytes,
        }
        return sum(value if term == "call" else value * quantity[term] / 1e6 for term, value in terms.items())

    def _rates(self, kernel: Kernel) -> Compute:
        compute = self.target.compute
        return compute.get(kernel.scheme) or compute.get(kernel.dtype) or compute["float32"]

    def _energy_mj(self, kernel: Kernel, micros: float) -> float:
        energy = self.target.energy
        per_mac = energy.pj_per_mac.get(kernel.dtype, 0.0)
        picojoules = per_mac * kernel.macs + energy.pj_per_byte * kernel.bytes
        return energy.active_watts * micros * 1e-3 + picojoules * 1e-9

    def _warnings(self, resident: int, peak: int) -> tuple[str, ...]:
        found = []
        flash, sram = self.target.memory.flash_kib, self.target.memory.sram_kib
        if flash is not None and resident > flash * 1024:
            found.append(f"does not fit: weights take {resident / 1024:.0f} KiB, flash has {flash} KiB")
        if sram is not None and peak > sram * 1024:
            found.append(f"does not fit: activations take {peak / 1024:.0f} KiB at their peak, SRAM has {sram} KiB")
        return tuple(found)


def _padded(kernel: Kernel, multiple: int) -> float:
    """Multiply-accumulates with output channels rounded up to what the kernel computes at once."""
    if kernel.channels == 0:
        return float(kernel.macs)
    return kernel.macs * (-(-kernel.channels // multiple) * multiple) / kernel.channels
