"""Processors: a fitted kernel where the target's table has one, else a roofline.

    roofline  latency = max(operations / rate, bytes / bandwidth) + overhead of the call
    fitted    latency = max(computing / clock, bytes from main memory / bandwidth), where
              computing = ns x clock of the measurement + cycles + instructions x cycles per instruction

both times the scale of the target and its factors for the kind and the number format of the kernel.

Kernels that are given as instructions pay for their bytes, those that come from main memory. Measured times and cycles
hold the caches already: they pay for weights alone, where those of the network exceed the caches and take longer to
come than the kernel to compute. The cost of the call is part of a fitted kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lpcc.cost.kinds import INSTRUCTIONS, MAC_KINDS
from lpcc.cost.machine import Bound, Network, Price

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel
    from lpcc.target import Compute, Target


class Processor:
    """The cost model of CPUs, microcontrollers and (coarsely) GPUs, for one thread with warm caches."""

    def price(self, kernel: Kernel, network: Network, target: Target) -> Price:
        """Price of one kernel."""
        if kernel.kind == "view":
            return Price(target.overhead_us.view, "overhead")
        memory = _memory_us(kernel, network.weight_bytes, target)
        amounts = target.tables.of(kernel)
        if amounts is not None:
            past = _past_caches_us(kernel, network.weight_bytes, target)
            price = _fitted(kernel, amounts, memory, past, target)
            price = replace(price, latency_us=price.latency_us + _cold_us(kernel, network.weight_bytes, target))
            streamed = _weights_us(kernel, network.weight_bytes, target)
            if streamed > price.latency_us:  # tables were measured on weights that caches hold
                price = replace(price, latency_us=streamed, bound="memory")
        else:
            compute, overhead = _compute_us(kernel, target), _overhead_us(kernel, target)
            price = Price(max(compute, memory) + overhead, _bound(compute, memory, overhead))
        return replace(price, latency_us=_factor(kernel, target) * price.latency_us)

    def notes(self, network: Network) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing: a processor runs everything."""
        return ()


def _factor(kernel: Kernel, target: Target) -> float:
    """What measurements of the device made of the prices."""
    factors = target.physics.factors
    of_format = factors.get(kernel.scheme, factors.get(kernel.dtype, 1.0))
    return target.physics.scale * factors.get(kernel.kind, 1.0) * of_format


def _fitted(kernel: Kernel, amounts: Mapping[str, float], memory: float, past: float, target: Target) -> Price:
    total = _micros(amounts, target)
    call = _micros(target.tables.fixed(kernel), target)
    if any(name in amounts for name in INSTRUCTIONS):
        return Price(max(total, past), _bound(total - call, past, call), counts=amounts)  # prefetched meanwhile
    moving = min(memory, total - call)  # an estimate: the measured time does not tell computing from moving
    return Price(total, _bound(total - call - moving, moving, call), counts=amounts)


def cold_share(resident: int, target: Target) -> float:
    """Which share of its weights a kernel finds outside of the second-level cache, if the network has `resident` bytes.

    Each inference reads all of them in turn: what does not fit is gone when it is wanted again, and so is what it
    pushed out; activations take part of the room.
    """
    room = (target.memory.l2_kib or 0) * 1024 / 2
    return min(max(resident / room - 1, 0.0), 1.0) if room > 0 else 0.0


def _cold_us(kernel: Kernel, resident: int, target: Target) -> float:
    per_byte = target.physics.weight_ns_per_byte
    return per_byte * kernel.weight_bytes * cold_share(resident, target) / 1e3 if per_byte else 0.0


def _bound(compute: float, memory: float, overhead: float) -> Bound:
    if overhead >= max(compute, memory):
        return "overhead"
    return "compute" if compute >= memory else "memory"


def _overhead_us(kernel: Kernel, target: Target) -> float:
    overhead = target.overhead_us
    if kernel.kind in ("quantize", "dequantize") and overhead.quantize is not None:
        return overhead.quantize
    return overhead.kernel


def _micros(amounts: Mapping[str, float], target: Target) -> float:
    """Microseconds of computing."""
    per_instruction = target.physics.cycles_per_instruction
    cycles = amounts.get("cycles", 0.0) + sum(
        amounts.get(name, 0.0) * per_instruction.get(name, 1.0) for name in INSTRUCTIONS
    )
    clock = target.core.clock_ghz
    slower = (target.physics.measured_ghz or clock) / clock
    return cycles / (clock * 1e3) + slower * amounts.get("ns", 0.0) / 1e3


def _compute_us(kernel: Kernel, target: Target) -> float:
    rates = target.compute.get(kernel.scheme) or target.compute.get(kernel.dtype) or target.compute["float32"]
    if kernel.kind in MAC_KINDS:
        cycles = _padded(kernel, rates.channel_multiple) / (rates.macs_per_cycle * _efficiency(kernel.kind, rates))
    else:
        elements = rates.elements_per_cycle
        cycles = kernel.elements / elements.get(kernel.kind, elements["elementwise"])
    return cycles / (target.core.clock_ghz * 1e3)


def _efficiency(kind: str, rates: Compute) -> float:
    """A kind that is not stated runs like the nearest one that is."""
    nearest = {"matmul": "gemm", "rnn": "gemm"}
    return rates.efficiency.get(kind) or rates.efficiency.get(nearest.get(kind, "conv")) or rates.efficiency["conv"]


def _memory_us(kernel: Kernel, resident: int, target: Target) -> float:
    """Time to move a kernel's data.

    Where all weights of the network exceed the cache, every inference reads them from main memory again. A
    microcontroller reads them from its flash; its activations lie in SRAM, which is as fast as the core.
    """
    memory = target.memory
    main = memory.bandwidth_gbps * 1e3  # bytes per microsecond
    if memory.sram_kib is not None:
        return kernel.weight_bytes / main
    cached = (memory.cache_bandwidth_gbps or memory.bandwidth_gbps) * 1e3
    room = memory.cache_kib * 1024
    activations = kernel.bytes - kernel.weight_bytes
    return activations / (cached if activations <= room else main) + kernel.weight_bytes / (
        cached if resident <= room else main
    )


def _past_caches_us(kernel: Kernel, resident: int, target: Target) -> float:
    """Time for what comes from main memory alone: cycles of instructions hold the caches, or SRAM, already."""
    if target.memory.sram_kib is not None:
        return _memory_us(kernel, resident, target)
    room = target.memory.cache_kib * 1024
    activations = kernel.bytes - kernel.weight_bytes
    missing = (activations if activations > room else 0) + (kernel.weight_bytes if resident > room else 0)
    return missing / (target.memory.bandwidth_gbps * 1e3)


def _weights_us(kernel: Kernel, resident: int, target: Target) -> float:
    """Time for the weights of a kernel to come from main memory; 0 where the caches hold those of the network."""
    memory = target.memory
    if memory.sram_kib is not None or resident <= memory.cache_kib * 1024:
        return 0.0
    return kernel.weight_bytes / (memory.bandwidth_gbps * 1e3)


def _padded(kernel: Kernel, multiple: int) -> float:
    """Multiply-accumulates with output channels rounded up to what the kernel computes at once."""
    if kernel.channels == 0:
        return float(kernel.macs)
    return kernel.macs * (-(-kernel.channels // multiple) * multiple) / kernel.channels
