"""What a network takes of a device's memories: activations, weights, and the runtime itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from lpcc.cost.kinds import MAC_KINDS
from lpcc.schema import Bound

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel
    from lpcc.target import Target

_Size = Annotated[float, Bound(least=0)]


@dataclass(frozen=True)
class Footprint:
    """What the runtime takes besides activations and weights: once, for each kernel, each layer with weights.

    A layer's channels have scales of their own, which `..._per_channel` stands for. Views are no kernels.
    """

    sram_kib: _Size = 0.0
    sram_bytes_per_kernel: _Size = 0.0
    sram_bytes_per_layer: _Size = 0.0
    sram_bytes_per_channel: _Size = 0.0
    flash_kib: _Size = 0.0
    flash_bytes_per_kernel: _Size = 0.0
    flash_bytes_per_channel: _Size = 0.0

    def sram_bytes(self, kernels: Sequence[Kernel]) -> int:
        """Bytes of SRAM for running these kernels."""
        count, layers, channels = amounts(kernels)
        return round(
            self.sram_kib * 1024
            + self.sram_bytes_per_kernel * count
            + self.sram_bytes_per_layer * layers
            + self.sram_bytes_per_channel * channels
        )

    def flash_bytes(self, kernels: Sequence[Kernel]) -> int:
        """Bytes of flash for the code and the tables that run these kernels."""
        count, _, channels = amounts(kernels)
        return round(
            self.flash_kib * 1024 + self.flash_bytes_per_kernel * count + self.flash_bytes_per_channel * channels
        )


def amounts(kernels: Sequence[Kernel]) -> tuple[int, int, int]:
    """Kernels that are no views, those of them with weights, and the output channels of these."""
    run = [kernel for kernel in kernels if kernel.kind != "view"]
    layers = [kernel for kernel in run if kernel.kind in MAC_KINDS and kernel.kind != "matmul"]
    return len(run), len(layers), sum(kernel.geometry.groups * kernel.geometry.cout for kernel in layers)


def misfits(target: Target, ram: int, flash: int, peak_layer: str) -> tuple[str, ...]:
    """Why a network does not fit a target, in words; nothing where it fits or the target states no limits."""
    found = []
    memory = target.memory
    if memory.sram_kib is not None and ram > memory.sram_kib * 1024:
        found.append(
            f"does not fit: needs {_kib(ram)} of SRAM of {memory.sram_kib} KiB, "
            f"{_kib(ram - memory.sram_kib * 1024)} too much; most at {peak_layer}"
        )
    if memory.flash_kib is not None and flash > memory.flash_kib * 1024:
        found.append(
            f"does not fit: weights and code need {_kib(flash)} of flash of {memory.flash_kib} KiB, "
            f"{_kib(flash - memory.flash_kib * 1024)} too much"
        )
    return tuple(found)


def _kib(size: int) -> str:
    return f"{-(-size // 1024)} KiB"
