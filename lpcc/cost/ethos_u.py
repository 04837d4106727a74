"""Arm Ethos-U55: cycles as Arm's compiler Vela estimates them, in a closed form for each kernel.

The NPU computes an output in blocks that fit, with their input, into its buffer. For each block

    MAC    = max(4 x micro-blocks, weight decoder) x kernel steps x depth steps
    output = cycles per element x elements of the block
    NPU    = blocks x max(MAC, output) + min(MAC, output) + reading and writing one block    (the units overlap)

    kernel = max(NPU, bytes of SRAM / its bandwidth, bytes of flash / its bandwidth)

Weights come from flash in compressed form. Those of convolutions that are read more than once are copied to SRAM while
the kernel before runs; what does not fit into that time is waited for. Sources: the behaviour of ethos-u-vela 5.2 (its
performance estimation is published under the Apache licence); Arm, Ethos-U55 technical reference manual.

The NPU runs int8; kernels in float, and what it has no unit for, run on the processor beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, log2
from typing import TYPE_CHECKING, Annotated

from lpcc.cost.machine import Network, Price
from lpcc.schema import Bound

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lpcc.analysis.kernels import Kernel
    from lpcc.analysis.weight_forms import WeightForm
    from lpcc.target import Target

    Integers = npt.NDArray[np.int64]

Positive = Annotated[float, Bound(above=0)]
Count = Annotated[int, Bound(above=0)]

_SUBKERNEL = 8  # a window is computed in parts of at most 8 x 8
_MOST = (32, 64, 128)  # height, width and depth of a block
_SPLIT = 16  # depths of blocks are multiples of this, or all
_BURST = 32  # bytes of an SRAM burst
_SCALE_BYTES = 10  # bias, multiplier and shift of an output channel
_SOFTMAX_FIXED, _SOFTMAX_ADDS, _SOFTMAX_STEPS = 750, 200, 20  # a softmax is some 30 operations in 32 bits
_MOVES = frozenset({"concat", "copy", "transpose"})
_LOOKUPS = frozenset({"Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Gelu"})  # in a table of 256
_UNITS = {"conv": "conv", "winograd": "conv", "pointwise": "conv", "grouped": "conv", "depthwise": "depthwise"} | {
    "gemm": "vector",
    "pool": "pool",
}


@dataclass(frozen=True)
class EthosU:
    """An Ethos-U55: its MAC array, its output unit and the memories beside it, per cycle of its clock.

    A micro-block of `block_height` x `block_width` x `block_depth` outputs is what the array computes at once, 8
    products deep. `buffer_kib` holds input blocks and accumulators in banks of 1 KiB, taken in multiples of
    `input_granule` and `accumulator_granule`. `*_cycles`: cycles per output element of the output unit. `host_*`: the
    processor that runs what the NPU cannot, in multiply-accumulates and elements per NPU cycle.
    """

    block_height: Count
    block_width: Count
    block_depth: Count
    buffer_kib: Count
    input_granule: Count
    accumulator_granule: Count
    output_cycles: Positive
    relu_cycles: Positive
    lookup_cycles: Positive
    add_cycles: Positive
    multiply_cycles: Positive
    max_cycles: Positive
    sram_bytes_per_cycle: Positive
    flash_bytes_per_cycle: Positive
    sram_latency: Count
    flash_latency: Count
    host_macs_per_cycle: Positive
    host_elements_per_cycle: Positive

    def price(self, kernel: Kernel, network: Network, target: Target) -> Price:
        """Price of one kernel; energy is the target's power times latency."""
        per_us = target.core.clock_ghz * 1e3
        if kernel.kind == "view":
            return Price(0.0, "overhead")
        work = self._work(kernel, network)
        if work is None:
            cycles = self._on_host(kernel)
            return Price(cycles / per_us, "compute", counts={"host_cycles": cycles})
        slack = self._slack(kernel, network)
        memory = max(self._sram_cycles(work), self._flash_cycles(work, slack))
        npu = work.npu_cycles
        if work.copied and work.encoded and not slack:  # nothing runs meanwhile: the first channels are waited for
            first = min(1.0, _SPLIT / work.channels)
            npu += self._copying(first * (work.encoded + _SCALE_BYTES * work.channels))
        counts = {
            "npu_cycles": npu,
            "sram_cycles": self._sram_cycles(work),
            "flash_cycles": self._flash_cycles(work, slack),
            "encoded_bytes": work.encoded,
        }
        return Price(max(npu, memory) / per_us, "compute" if npu >= memory else "memory", counts=counts)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Which kernels run on the processor beside the NPU."""
        found = [k for k in network.kernels if k.kind != "view" and self._work(k, network) is None]
        if not found:
            return ()
        if all(kernel.dtype != "int8" for kernel in found):
            return (f"{len(found)} kernels are in float and run on the processor beside the NPU, which takes int8",)
        kinds = ", ".join(sorted({kernel.op for kernel in found}))
        return (f"{len(found)} kernels run on the processor beside the NPU, which has no unit for them: {kinds}",)

    def _work(self, kernel: Kernel, network: Network) -> _Work | None:
        """What the NPU does for a kernel; None where it cannot run it."""
        if kernel.dtype != "int8" or not kernel.outputs:
            return None
        if kernel.geometry.is_empty:
            return _Work(0.0, 0.0, 0.0)
        if kernel.kind in _UNITS:
            return self._blocks(kernel, _layer(kernel), network)
        size = float(kernel.outputs[0].nbytes)
        read = float(sum(o.nbytes for o in kernel.inputs))
        if kernel.kind == "softmax":
            steps = _SOFTMAX_FIXED + self.add_cycles * (_SOFTMAX_ADDS + _SOFTMAX_STEPS * size)
            return _Work(steps, 8 * _SOFTMAX_STEPS * size, 0.0)
        if kernel.kind in _MOVES or kernel.kind == "resize":
            return _Work(max(self.output_cycles, 2 / self.sram_bytes_per_cycle) * size, read + size, 0.0)
        if kernel.kind == "reduce":
            return _Work(max(self.output_cycles, 0.25) * read, read + size, 0.0)
        if kernel.kind == "activation" or kernel.op in _LOOKUPS:
            return _Work(self.lookup_cycles * size, read + size, 256.0)
        if kernel.kind == "elementwise" and kernel.op in ("Add", "Sub"):
            return _Work(self.add_cycles * size, read + size, 0.0)
        if kernel.kind == "elementwise" and kernel.op in ("Mul", "Min", "Max", "Relu", "Clip", "PRelu"):
            cycles = self.multiply_cycles if kernel.op == "Mul" else max(self.output_cycles, self.relu_cycles)
            return _Work(cycles * size, read + size, 0.0)
        return None

    def _on_host(self, kernel: Kernel) -> float:
        return kernel.macs / self.host_macs_per_cycle + kernel.elements / self.host_elements_per_cycle

    def _blocks(self, kernel: Kernel, layer: _Layer, network: Network) -> _Work:
        """A kernel of the MAC array, block by block."""
        array = _Array(self.block_height, self.block_width, self.block_depth, self.buffer_kib)
        block = find_block(array, self.input_granule, self.accumulator_granule, layer)
        height, width, depth = min(block.height, layer.oh), min(block.width, layer.ow), min(block.depth, layer.cout)
        size = height * width * depth
        mac = self._mac_cycles(layer, block, (height, width, depth))
        output = self._per_element(kernel) * size
        window = min(block.input_height, layer.ih) * min(block.input_width, layer.iw)
        burst = _BURST / min(_BURST, 16 * block.input_width if layer.cin >= _SPLIT else block.input_depth)
        scattered = layer.unit in ("vector", "pool")  # one position: short bursts
        moved = window * min(block.input_depth, layer.cin) * (4 if layer.unit == "pool" else burst)
        moved += size * (2 if scattered else 1)
        move = 2 * self.sram_latency + moved / self.sram_bytes_per_cycle
        planes = ceil(layer.oh / height) * ceil(layer.ow / width)
        if scattered:
            cycles = mac * planes * ceil(layer.cout / depth) + max(output, (move + output + mac) / 4)
        else:
            count = layer.oh / height * (layer.ow / width) * (layer.cout / depth)
            cycles = count * max(mac, output) + min(mac, output) + move
        fetches = planes * (1 if layer.unit in ("depthwise", "pool") else ceil(layer.cout / depth))
        parts = ceil(layer.kh / _SUBKERNEL) * ceil(layer.kw / _SUBKERNEL)
        read = window * _up(layer.cin, _SPLIT if layer.cin >= _SPLIT else 1) * burst * parts * fetches
        written = layer.oh * layer.ow * (layer.cout if scattered else _up(layer.cout, 16))
        form = network.form(kernel) if layer.unit != "pool" else None
        once = layer.unit == "vector" or (layer.unit == "depthwise" and planes == 1)
        return _Work(
            npu_cycles=cycles * layer.groups,
            sram_bytes=(read + written) * layer.groups,
            flash_bytes=_SCALE_BYTES * layer.cout * planes * layer.groups if form is not None else 0.0,
            encoded=0.0 if form is None else encoded_bytes(form, layer, part=block.part),
            reads=planes,
            channels=layer.cout * layer.groups,
            copied=not once,
        )

    def _mac_cycles(self, layer: _Layer, block: _Block, size: tuple[int, int, int]) -> float:
        """Cycles of the MAC array for one block over all of its input."""
        height, width, depth = size
        unit = (self.block_height, self.block_width)
        if self.block_height == 2 and layer.oh == 1 and layer.kh == 1 and layer.ow % 2 == 0 and layer.unit != "pool":
            unit = (1, 4)  # the array is laid along the line
        plane = ceil(height / unit[0]) * ceil(width / unit[1])
        layers = ceil(depth / self.block_depth)
        decode = 4 * self.block_depth  # the weight decoder's time for a micro-block
        cycles = 0.0
        for y in range(0, layer.kh, _SUBKERNEL):
            for x in range(0, layer.kw, _SUBKERNEL):
                taps = min(_SUBKERNEL, layer.kh - y) * min(_SUBKERNEL, layer.kw - x)
                if layer.unit == "pool":
                    cycles += max(4, taps) * plane * layers * (1 if self.block_depth < 8 else 4)
                    continue
                steps = (
                    taps if layer.unit == "vector" or not (block.part or layer.unit == "depthwise") else -(-taps // 4)
                )
                again = ceil(min(layer.cin, block.input_depth) / 8) if block.part and layer.unit == "conv" else 1
                wait = 3 if self.block_depth < 8 else 2
                idle = 0 if plane > 1 else (wait * steps if layers == 1 else wait * (steps - 1) * layers)
                cycles += (max(decode, 4 * plane) * steps * layers + idle) * again
        if layer.unit in ("conv", "vector"):
            cycles *= ceil(layer.cin / min(layer.cin, block.input_depth))
        return cycles

    def _per_element(self, kernel: Kernel) -> float:
        if kernel.kind == "pool":
            return self.max_cycles if "Max" in kernel.op else self.output_cycles
        from lpcc import edit  # imports onnx_graphsurgeon, which reading a target must not

        ops = {edit.op(node) for node in kernel.nodes}
        if ops & {"Relu", "Clip"}:
            return max(self.output_cycles, self.relu_cycles)
        if ops & _LOOKUPS:
            return max(self.output_cycles, self.lookup_cycles)
        return self.output_cycles

    def _slack(self, kernel: Kernel, network: Network) -> float:
        """Cycles of the kernel before, in which weights can be copied."""
        before = network.before.get(id(kernel))
        work = None if before is None else self._work(before, network)
        return 0.0 if work is None else work.npu_cycles

    def _sram_cycles(self, work: _Work) -> float:
        weights = work.encoded * work.reads if work.copied and work.reads > 1 else 0.0
        return (work.sram_bytes + weights) / self.sram_bytes_per_cycle

    def _flash_cycles(self, work: _Work, slack: float) -> float:
        """Scales are read for every plane of blocks; weights too, unless they are copied ahead."""
        moved = work.flash_bytes
        if work.encoded:
            time = self._copying(work.encoded)
            if not work.copied or (work.reads == 1 and time > slack):
                moved += work.encoded * work.reads
            elif time > slack:
                ahead = max(_SPLIT, work.channels * slack / time // _SPLIT * _SPLIT) if slack else 0.0
                moved += work.encoded * max(0.0, 1 - ahead / work.channels)
        return moved / self.flash_bytes_per_cycle

    def _copying(self, weights: float) -> float:
        """Cycles to bring bytes from flash to SRAM."""
        return weights / self.flash_bytes_per_cycle + self.flash_latency


@dataclass(frozen=True)
class _Work:
    """NPU cycles of a kernel, bytes of feature maps in SRAM, and its weights: how large, how often read, where from."""

    npu_cycles: float
    sram_bytes: float
    flash_bytes: float
    encoded: float = 0.0
    reads: int = 0
    channels: int = 1
    copied: bool = False


@dataclass(frozen=True)
class _Layer:
    """Loop bounds of one group of a kernel; `unit` is the mode of the MAC array that it needs."""

    unit: str
    cin: int
    cout: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    ih: int
    iw: int
    oh: int
    ow: int
    groups: int = 1


@dataclass(frozen=True)
class _Array:
    """Micro-block and buffer of the MAC array."""

    height: int
    width: int
    depth: int
    banks: int


@dataclass(frozen=True)
class _Block:
    """Output block, the input block that it needs, and whether windows are computed four taps at a time (`part`)."""

    height: int
    width: int
    depth: int
    input_height: int
    input_width: int
    input_depth: int
    part: bool


def _layer(kernel: Kernel) -> _Layer:
    g = kernel.geometry
    unit = _UNITS[kernel.kind]
    if "Global" in kernel.op:  # a window of all
        g = replace(g, kh=g.ih, kw=g.iw)
    taps = (g.kh, g.kw, g.sh, g.sw, g.dh, g.dw, g.ih, g.iw, g.oh, g.ow)
    if unit == "pool" and g.oh == g.ow == 1:  # strides mean nothing
        taps = (g.kh, g.kw, 1, 1, g.dh, g.dw, g.ih, g.iw, 1, 1)
    if unit in ("depthwise", "pool"):
        channels = g.groups * g.cout
        return _Layer(unit, channels, channels, *taps, groups=max(g.batch, 1))
    if unit == "vector" and g.oh > 1:  # a matrix of inputs is a 1x1 convolution
        unit = "conv"
    return _Layer(unit, g.cin, g.cout, *taps, groups=max(g.groups * g.batch, 1))


def encoded_bytes(form: WeightForm, layer: _Layer, *, part: bool) -> float:
    """Bytes of compressed weights: an ideal code of values and of the zeros that pad them, some 5 % more and 64 bytes.

    The decoder wants windows in fours of taps and inputs in eights of channels.
    """
    taps = layer.kh * layer.kw
    padded = _up(taps, 4) / taps if part or layer.unit == "depthwise" else 1.0
    if layer.unit in ("conv", "vector"):
        padded *= _up(layer.cin, 8) / layer.cin
    share = 1 / padded
    zeros = 0.0 if share >= 1 else -(share * log2(share) + (1 - share) * log2(1 - share)) * padded
    return float(64 + form.count / 8 * (1.04 * form.entropy + 0.2 * min(1.0, form.entropy) + zeros))


@lru_cache(maxsize=4096)
def find_block(array: _Array, input_granule: int, accumulator_granule: int, layer: _Layer) -> _Block:
    """The block that makes input and weights be fetched least, of those whose input and accumulators fit the buffer."""
    import numpy as np

    same_depth = layer.unit in ("depthwise", "pool")
    part = layer.unit in ("conv", "depthwise") and _by_parts(layer)
    spare = 2 if array.banks > 16 else 0
    room = array.banks - 2 - spare
    heights = np.arange(array.height, _up(min(layer.oh, _MOST[0]), array.height) + 1, array.height)
    widths = np.arange(array.width, _up(min(layer.ow, _MOST[1]), array.width) + 1, array.width)
    d, h, w = (a.ravel() for a in np.meshgrid(_depths(array.depth, layer.cout), heights, widths, indexing="ij"))
    reach = (min((layer.kh - 1) * layer.dh + 1, _SUBKERNEL), min((layer.kw - 1) * layer.dw + 1, _SUBKERNEL))
    ih = _ups((h - 1) * layer.sh + reach[0], array.height)
    iw = _ups((w - 1) * layer.sw + reach[1], array.width)
    deep = d if same_depth else np.full_like(d, _up(min(layer.cin, 16 if part else 32), 8))
    flat = layer.oh == 1 and layer.kh == 1 and array.height == 2
    banks = _ups(2 * _parts(ih * iw * _ups(deep, 8), 1024), input_granule)
    banks = banks + _ups(2 * _parts(np.where(flat, 1, h) * w * _ups(d, 8) * 4, 1024), accumulator_granule)
    planes = _parts(np.full_like(h, layer.oh), h) * _parts(np.full_like(w, layer.ow), w)
    weights = (layer.kh * layer.kw if layer.unit in ("conv", "depthwise") else 0) * layer.cin * planes.astype(float)
    if layer.unit != "depthwise":
        weights = weights * layer.cout
    repeats = _parts_of(layer.kh, layer.dh) * _parts_of(layer.kw, layer.dw)
    fetch = ih * iw * layer.cin * repeats * (layer.oh / h) * (layer.ow / w)
    if not same_depth:
        fetch = fetch * _parts(np.full_like(d, layer.cout), d)
    cost = (fetch + weights) / (layer.oh * layer.ow * layer.cout)
    cost = np.where(layer.ih * layer.iw * layer.cin < 2 * ih * iw * deep, cost / 2, cost)
    cost = np.where(banks <= room, cost, np.inf)
    best = int(np.argmin(cost))
    small = np.flatnonzero((cost == cost[best]) & (h <= 4) & (w <= 4) & (np.arange(len(h)) > best))
    if len(small):  # of equals, among the small ones, the one that covers most of the input
        cover = np.minimum(ih[small], layer.ih) * np.minimum(iw[small], layer.iw)
        best = int(small[len(small) - 1 - int(np.argmax(cover[::-1]))])
    return _Block(int(h[best]), int(w[best]), int(d[best]), int(ih[best]), int(iw[best]), int(deep[best]), part)


def _by_parts(layer: _Layer) -> bool:
    """Whether four taps at a time on 8 channels use the array better than one tap on 32."""
    if layer.cin <= 8:
        return True
    taps = layer.kh * layer.kw
    return layer.cin * taps / (_up(layer.cin, 8) * _up(taps, 4)) > layer.cin / _up(layer.cin, 32)


def _depths(unit: int, channels: int) -> list[int]:
    found: list[int] = []
    space = _up(min(channels, _MOST[2]), unit)
    depth = max(unit, min(space, _SPLIT))
    while True:
        if depth < channels:
            depth = _up(depth, _SPLIT)
        if depth > space:
            return found or [space]
        found.append(depth)
        depth += unit


def _parts_of(size: int, dilation: int) -> int:
    return -(-((size - 1) * dilation + 1) // _SUBKERNEL)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _ups(values: Integers, multiple: int) -> Integers:
    return -(-values // multiple) * multiple


def _parts(values: Integers, size: int | Integers) -> Integers:
    return -(-values // size)
