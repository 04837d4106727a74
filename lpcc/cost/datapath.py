"""Datapaths without multipliers: shift and add for weights that are powers of two, XNOR and count for binary ones.

    cycles = multiply-accumulates x steps per weight / operations per cycle
    energy = operations x their energy + bytes of buffer and DRAM x theirs

What a layer's weights are is read from the graph: binary or ternary ones take a step, a sum of k powers of two takes k
(LightNN, Ding et al. 2017), which may differ by filter (FLightNN, Ding et al. 2019). Others run on the multipliers of
the fallback, and cost more. XNOR needs binary inputs too (XNOR-Net, Rastegari et al. 2016): layers that read what Sign
has made; other binary layers run as additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from lpcc.cost.machine import Network, Price
from lpcc.schema import Bound

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.analysis.kernels import Kernel
    from lpcc.analysis.weight_forms import WeightForm
    from lpcc.target import Target

Positive = Annotated[float, Bound(above=0)]
NonNegative = Annotated[float, Bound(least=0)]

_THROUGH = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "MaxPool", "Pad"})


@dataclass(frozen=True)
class Datapath:
    """Rates per cycle and energy in pJ per operation, per byte of the buffer and per byte of DRAM.

    `most_terms`: powers of two in a weight that the shifters take, 0 where there are none. `xnor_per_cycle`: 0 where
    there is no such unit. `buffer_kib` holds the weights and activations of a layer, or they come from DRAM.
    """

    adds_per_cycle: Positive
    macs_per_cycle: Positive
    elements_per_cycle: Positive
    most_terms: Annotated[int, Bound(least=0)]
    xnor_per_cycle: NonNegative
    activation_bits: Positive
    buffer_kib: Positive
    pj_shift_add: NonNegative
    pj_add: NonNegative
    pj_xnor: NonNegative
    pj_mac: NonNegative
    pj_element: NonNegative
    pj_buffer_byte: NonNegative
    pj_dram_byte: NonNegative

    def price(self, kernel: Kernel, network: Network, target: Target) -> Price:
        """Price of one kernel."""
        if kernel.kind == "view":
            return Price(0.0, "overhead", 0.0)
        form = network.form(kernel) if kernel.macs else None
        unit, steps, rate, picojoules = self._unit(kernel, form)
        operations = kernel.macs * steps
        cycles = operations / rate + (0 if kernel.macs else kernel.elements / self.elements_per_cycle)
        weights = 0.0 if form is None else form.count * self._bits(unit, steps, form) / 8
        bits = 1.0 if unit == "xnor" else self.activation_bits
        read, written = (sum(o.elements for o in operands) for operands in (kernel.inputs, kernel.outputs))
        activations = (read * bits + written * self.activation_bits) / 8
        moved = weights + activations
        outside = moved if moved > self.buffer_kib * 1024 else weights
        compute = cycles / (target.core.clock_ghz * 1e3)
        memory = outside / (target.memory.bandwidth_gbps * 1e3)
        energy = (
            operations * picojoules
            + (0 if kernel.macs else kernel.elements * self.pj_element)
            + moved * self.pj_buffer_byte
            + outside * self.pj_dram_byte
        )
        counts = {unit: float(operations), "buffer_bytes": moved, "dram_bytes": outside, "cycles": cycles}
        return Price(max(compute, memory), "compute" if compute >= memory else "memory", energy * 1e-6, counts)

    def notes(self, network: Network) -> tuple[str, ...]:
        """How many layers run on the multipliers."""
        layers = [k for k in network.kernels if k.macs]
        dense = sum(1 for k in layers if self._unit(k, network.form(k))[0] == "mac")
        if not dense:
            return ()
        return (f"{dense} of {len(layers)} layers have weights of no special form and run on the multipliers",)

    def _unit(self, kernel: Kernel, form: WeightForm | None) -> tuple[str, float, float, float]:
        """The unit that a kernel runs on, its steps for a weight, its rate and its energy per step."""
        if form is not None and form.shape in ("binary", "ternary"):
            if form.shape == "binary" and self.xnor_per_cycle and _binary_input(kernel):
                return "xnor", 1, self.xnor_per_cycle, self.pj_xnor
            return "add", 1, self.adds_per_cycle, self.pj_add
        if form is not None and form.shape == "powers" and form.terms <= self.most_terms:
            return "shift_add", form.mean_terms, self.adds_per_cycle, self.pj_shift_add
        return "mac", 1, self.macs_per_cycle, self.pj_mac

    def _bits(self, unit: str, steps: float, form: WeightForm) -> float:
        """Bits in which a weight is stored: those that tell its values apart, but no more than the activations have.

        Nor more than a sign and 3 bits of exponent for each power of two.
        """
        return min(float(form.bits), 4.0 * steps if unit == "shift_add" else self.activation_bits)


def _binary_input(kernel: Kernel) -> bool:
    """Whether what a kernel reads was made by Sign, but for kernels that only move it."""
    from lpcc import edit  # imports onnx_graphsurgeon, which reading a target must not

    tensor: gs.Tensor = kernel.node.inputs[0]
    while tensor.inputs:
        node = tensor.inputs[0]
        op = edit.op(node)
        if op == "Sign":
            return True
        if op not in _THROUGH:
            return False
        tensor = node.inputs[0]
    return False
