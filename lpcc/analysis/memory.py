"""How much memory activations take while the network runs, kernel by kernel, and where they would lie.

A tensor is alive from the kernel that makes it to the last one that reads it; inputs of the network from the start,
outputs to the end. Views share the memory of what they look at. What else may share memory, and what kernels need
besides, the runtime says (`lpcc.analysis.runtimes.base.MemoryRules`). Weights do not count. What a nested graph returns
lives until the node that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import schedule
from lpcc.analysis.arena import Arena, Block, place
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.runtimes.base import MemoryRules, Runtime
from lpcc.analysis.shapes import Shapes, bind


@dataclass(frozen=True)
class Memory:
    """Memory of a network's activations over its kernels.

    `series` has the bytes alive at each of the kernels `steps`, in the order in which they stand, or in `order` if
    the runtime looks for the best one by itself. `names` are those of the buffers of `program`.
    """

    steps: tuple[Kernel, ...]
    program: schedule.Program
    names: tuple[str, ...]
    rules: MemoryRules

    @cached_property
    def best(self) -> schedule.Schedule:
        """The order that needs the least, as far as a short search finds it, with a bound for all orders."""
        if any(step.inner for step in self.steps):  # what runs when is up to the node that holds them
            return schedule.Schedule(tuple(range(len(self.steps))), self._peak(None), schedule.least(self.program))
        return schedule.search(self.program)

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the kernels as the runtime runs them."""
        return self.best.order if self.rules.reorders else tuple(range(len(self.steps)))

    @cached_property
    def moments(self) -> tuple[schedule.Moment, ...]:
        """The run, kernel by kernel."""
        return tuple(schedule.run(self.program, self.order))

    @property
    def series(self) -> tuple[int, ...]:
        """Bytes alive at each kernel, as the runtime runs them."""
        return tuple(moment.alive for moment in self.moments)

    @property
    def peak_bytes(self) -> int:
        """Bytes alive at once, at most."""
        return max(self.series, default=sum(self.program.sizes[b] for b in self.program.given))

    @property
    def peak(self) -> Kernel | None:
        """The kernel that runs while the most is alive; the first of them."""
        top = max(self.moments, key=lambda moment: moment.alive, default=None)
        return None if top is None else self.steps[top.step]

    @property
    def peak_tensors(self) -> tuple[tuple[str, int], ...]:
        """Names and bytes of what is in use at the peak, the largest first; what may overlap is counted twice."""
        at = max(range(len(self.series)), key=self.series.__getitem__, default=0)
        found = [(name, block.size) for name, block in self._blocks if block.first <= at <= block.last]
        return tuple(sorted(found, key=lambda pair: -pair[1]))

    @cached_property
    def arena(self) -> Arena:
        """The block of memory in which all of it fits, each buffer at one place while it lives."""
        return place([block for _, block in self._blocks], self.rules.alignment)

    def _peak(self, order: Sequence[int] | None) -> int:
        return max((moment.alive for moment in schedule.run(self.program, order)), default=0)

    @cached_property
    def _blocks(self) -> tuple[tuple[str, Block], ...]:
        """Each buffer with its name and lifetime, and the scratch memory of each kernel."""
        program, end = self.program, len(self.steps)
        first = dict.fromkeys(program.given, 0)
        last = dict.fromkeys(program.kept, end)
        donors: dict[int, tuple[int, int]] = {}
        read = {buffer for step in program.steps for buffer in step.reads}
        last.update(dict.fromkeys(program.given - read, end))
        scratch: list[tuple[str, Block]] = []
        for at, moment in enumerate(self.moments):
            step = program.steps[moment.step]
            for buffer in step.writes:
                first.setdefault(buffer, at)
            for buffer in (*step.writes, *step.reads):
                last[buffer] = max(at, last.get(buffer, at))
            if moment.donor is not None:
                donors[step.writes[0]] = (moment.donor, step.donors[moment.donor])
            if step.scratch:
                name = f"scratch of {edit.label(self.steps[moment.step].node)}"
                scratch.append((name, Block(step.scratch, at, at)))
        buffers = [b for b in range(len(program.sizes)) if b in first]
        numbers = {buffer: number for number, buffer in enumerate(buffers)}
        blocks = []
        for buffer in buffers:
            donor, apart = donors.get(buffer, (None, 0))
            number = None if donor is None else numbers[donor]
            block = Block(program.sizes[buffer], first[buffer], last.get(buffer, first[buffer]), number, apart)
            blocks.append((self.names[buffer], block))
        return (*blocks, *scratch)


def memory(
    graph: gs.Graph,
    shapes: Shapes | None = None,
    steps: Sequence[Kernel] | None = None,
    runtime: Runtime | None = None,
) -> Memory:
    """Activation memory over the kernels of an annotated graph under the rules of a `runtime` (onnxruntime).

    Linear in the number of kernels, beside the search for a better order, which is bounded.
    """
    from lpcc.analysis.runtimes import runtime_of

    shapes = shapes or bind(graph)
    runtime = runtime or runtime_of("onnxruntime")
    steps = tuple(kernels(graph, shapes) if steps is None else steps)
    builder = _Builder(graph, shapes, runtime)
    for step in steps:
        builder.add(step)
    program = builder.finish(graph)
    return Memory(steps, program, tuple(builder.names), builder.rules)


class _Builder:
    """Kernels as steps on buffers. Tensors that share memory share a buffer; what is made anew is a new buffer."""

    def __init__(self, graph: gs.Graph, shapes: Shapes, runtime: Runtime) -> None:
        self.runtime = runtime
        self.rules = runtime.memory_rules()
        self.sizes: list[int] = []
        self.names: list[str] = []
        self.steps: list[schedule.Step] = []
        self._of: dict[int, int] = {}  # tensor -> buffer
        self._maker: dict[int, int] = {}  # tensor -> step
        self._made_by: dict[int, tuple[int, Kernel]] = {}  # buffer -> step and kernel
        self._read: dict[int, int] = {}  # buffer -> how often
        self._given = frozenset(
            self._new(t, shapes.nbytes(t)) for t in graph.inputs if getattr(t, "default", None) is None
        )

    def _new(self, tensor: gs.Tensor, nbytes: int) -> int:
        self._of[id(tensor)] = len(self.sizes)
        self.sizes.append(nbytes)
        self.names.append(str(tensor.name))
        return len(self.sizes) - 1

    def add(self, kernel: Kernel) -> None:
        """One more kernel."""
        number = len(self.steps)
        read = [o.tensor for o in kernel.inputs if id(o.tensor) in self._of]
        reads = tuple(dict.fromkeys(self._of[id(tensor)] for tensor in read))
        after = tuple({self._maker[id(tensor)] for tensor in read if id(tensor) in self._maker})
        for buffer in reads:
            self._read[buffer] = self._read.get(buffer, 0) + 1
        if not kernel.nodes:  # a change of layout holds both for a moment
            both = 0 if kernel.kind == "view" else kernel.outputs[0].nbytes
            self.steps.append(schedule.Step(reads, (), after, scratch=both))
            return
        if kernel.kind == "view" and reads:
            for output in kernel.outputs:
                self._of[id(output.tensor)] = self._of[id(read[0])]
                self._maker[id(output.tensor)] = number
            self.steps.append(schedule.Step(reads, (), after))
            return
        donors = self._donors(kernel, reads)
        writes = tuple(self._new(output.tensor, output.nbytes) for output in kernel.outputs)
        self._maker.update((id(output.tensor), number) for output in kernel.outputs)
        self._made_by.update((buffer, (number, kernel)) for buffer in writes)
        self.steps.append(schedule.Step(reads, writes, after, self.runtime.scratch(kernel), donors))

    def _donors(self, kernel: Kernel, reads: tuple[int, ...]) -> dict[int, int]:
        """Inputs that a kernel may overwrite, each with the bytes that reading and writing must be apart."""
        if len(kernel.outputs) != 1:
            return {}
        size = kernel.outputs[0].nbytes
        open_to = [b for b in reads if self.rules.overwrites_inputs or b not in self._given]
        if kernel.kind in self.rules.in_place:
            return {b: 0 for b in open_to if self.sizes[b] == size}
        found = {b: self.runtime.apart(kernel, self.sizes[b], size) for b in open_to}
        return {b: apart for b, apart in found.items() if apart is not None}

    def finish(self, graph: gs.Graph) -> schedule.Program:
        """All of it as a program."""
        kept = frozenset(self._of[id(t)] for t in graph.outputs if id(t) in self._of)
        if self.rules.pools_in_conv:
            self._pool(kept)
        return schedule.Program(tuple(self.sizes), tuple(self.steps), self._given, kept)

    def _pool(self, kept: frozenset[int]) -> None:
        """Of what a convolution makes for a pooling alone, only the rows of one window are ever there."""
        for number, step in enumerate(self.steps):
            kernel = self._kernel_of(step)
            if kernel is None or kernel.kind != "pool" or "Global" in kernel.op or len(step.reads) != 1:
                continue
            (buffer,) = step.reads
            maker = self._made_by.get(buffer)
            if maker is None or self._read[buffer] != 1 or buffer in kept or maker[0] != number - 1:
                continue
            if maker[1].kind in ("conv", "pointwise", "depthwise"):
                loops = kernel.geometry
                self.sizes[buffer] = self.sizes[buffer] * min(loops.kh, loops.ih) // max(1, loops.ih)

    def _kernel_of(self, step: schedule.Step) -> Kernel | None:
        return self._made_by[step.writes[0]][1] if step.writes else None
