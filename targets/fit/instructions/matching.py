"""Which predicted kernel an executed node is."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.types import annotate
from lpcc.targets.fit.instructions.layers import Layer

_SAME = {"FusedConv": "Conv", "FusedGemm": "Gemm", "QGemm": "Gemm", "NhwcMaxPool": "MaxPool", "QuickGelu": "Sigmoid"}


def match(layers: Iterable[Layer], graph: gs.Graph) -> Iterator[tuple[Layer, Kernel]]:
    """Pairs of executed layers and the kernels predicted for the original graph.

    By operator and bytes written, in order: fused and inserted nodes have names of their own.
    """
    annotate(graph)
    waiting: dict[tuple[str, int], deque[Kernel]] = defaultdict(deque)
    for kernel in kernels(graph, isa=("aarch64",)):
        waiting[_plain(kernel.op), sum(o.nbytes for o in kernel.outputs)].append(kernel)
    for layer in layers:
        found = waiting.get((_plain(layer.op), _written(layer.model)))
        if found:
            yield layer, found.popleft()


def _plain(op: str) -> str:
    """An operator by the name that it has without quantisation or fusion."""
    name = op.split("::")[-1].removeprefix("QLinear")
    return _SAME.get(name, name)


def _written(model: onnx.ModelProto) -> int:
    total = 0
    for value in model.graph.output:
        kind = value.type.tensor_type
        elements = 1
        for dim in kind.shape.dim:
            elements *= dim.dim_value
        total += elements * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    return total
