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


def match(layers: Iterable[Layer], graph: gs.Graph) -> Iterator[tuple[Kernel, Layer | None]]:
    """The kernels predicted for a graph, each with the executed layer that it is; None where there is none such.

    By name, and else by operator and bytes written, in order: many fused and inserted nodes have names of their own.
    """
    annotate(graph)
    predicted = kernels(graph, isa=("aarch64",))
    names = {node.name for kernel in predicted for node in kernel.nodes if node.name}
    named: dict[tuple[str, str], Layer] = {}
    waiting: dict[tuple[str, int], deque[Layer]] = defaultdict(deque)
    for layer in layers:
        name = layer.name.partition("_token_")[0]
        if name in names and (name, _plain(layer.op)) not in named:
            named[name, _plain(layer.op)] = layer
        else:
            waiting[_plain(layer.op), _written(layer.model)].append(layer)
    for kernel in predicted:
        same = (named.pop((node.name, _plain(kernel.op)), None) for node in kernel.nodes)
        exact = next((layer for layer in same if layer), None)
        found = waiting.get((_plain(kernel.op), sum(o.nbytes for o in kernel.outputs)))
        yield kernel, exact or (found.popleft() if found else None)


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
