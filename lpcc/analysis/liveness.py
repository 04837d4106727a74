"""How much memory activations take while the network runs, kernel by kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.shapes import Shapes, bind

_IN_PLACE = frozenset({"elementwise", "activation"})


@dataclass(frozen=True)
class Liveness:
    """`peak_bytes` of activations alive at once, while `peak` runs; `series` has the bytes at each kernel in order."""

    peak_bytes: int
    peak: Kernel | None
    series: tuple[int, ...]


def liveness(graph: gs.Graph, shapes: Shapes | None = None, steps: Sequence[Kernel] | None = None) -> Liveness:
    """Activation memory over the kernels of an annotated graph, in the order in which they stand.

    A tensor is alive from the kernel that makes it to the last one that reads it; inputs of the network from the
    start, outputs to the end. Views share the memory of what they look at. An element-wise kernel overwrites an input
    of the same size that nobody reads afterwards, unless it is an input of the network. Weights do not count, nor
    the scratch memory of kernels. What a nested graph returns lives until the node that holds it. Linear time.
    """
    shapes = shapes or bind(graph)
    steps = kernels(graph, shapes) if steps is None else steps
    buffers = _Buffers(graph, steps)
    given = {id(t): shapes.nbytes(t) for t in graph.inputs if getattr(t, "default", None) is None}
    for tensor, size in given.items():
        buffers.open(tensor, size)
    series: list[int] = []
    for index, step in enumerate(steps):
        buffers.write(step, index, reusable=step.kind in _IN_PLACE, given=given)
        copied = 0 if step.nodes else step.outputs[0].nbytes  # a change of layout holds both for a moment
        series.append(buffers.live + copied)
        buffers.close(index)
    peak = max(range(len(series)), key=series.__getitem__, default=None)
    if peak is None:
        return Liveness(buffers.live, None, ())
    return Liveness(series[peak], steps[peak], tuple(series))


class _Buffers:
    """Which buffers are alive. Tensors that share memory share a buffer, which bears the id of the first of them."""

    def __init__(self, graph: gs.Graph, steps: Sequence[Kernel]) -> None:
        self.live = 0
        self._sizes: dict[int, int] = {}
        self._of: dict[int, int] = {}
        for step in steps:
            if step.kind == "view" and step.inputs:
                for output in step.outputs:
                    self._of[id(output.tensor)] = self.buffer(id(step.inputs[0].tensor))
        self._last: dict[int, int] = {}
        for index, step in enumerate(steps):
            for operand in (*step.inputs, *step.outputs):
                self._last[self.buffer(id(operand.tensor))] = index
        for tensor in graph.outputs:
            self._last[self.buffer(id(tensor))] = len(steps)
        self._ends: dict[int, list[int]] = {}
        for buffer, index in self._last.items():
            self._ends.setdefault(index, []).append(buffer)

    def buffer(self, tensor: int) -> int:
        return self._of.get(tensor, tensor)

    def open(self, buffer: int, size: int) -> None:
        if buffer not in self._sizes:
            self._sizes[buffer] = size
            self.live += size

    def write(self, step: Kernel, index: int, *, reusable: bool, given: dict[int, int]) -> None:
        """Open the buffers of what a kernel writes, or let it take over one of those that it is the last to read."""
        free = [
            buffer
            for buffer in (self.buffer(id(o.tensor)) for o in step.inputs)
            if reusable and self._last[buffer] == index and buffer in self._sizes and buffer not in given
        ]
        for output in step.outputs:
            buffer = self.buffer(id(output.tensor))
            donor = next((b for b in free if self._sizes[b] == output.nbytes), None)
            if donor is not None and buffer not in self._sizes:
                free.remove(donor)
                self.live -= self._sizes.pop(donor)
            self.open(buffer, output.nbytes)

    def close(self, index: int) -> None:
        for buffer in self._ends.get(index, ()):
            self.live -= self._sizes.pop(buffer, 0)
