"""What onnxruntime makes of a model: its optimised graph, and which kernels run in it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lpcc.runtime.session import open_session, session_options

if TYPE_CHECKING:
    import onnx

_INTEGER = {
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
}
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv"}
_PRODUCTS = {"FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gemm", "MatMul"}


@dataclass(frozen=True)
class KernelCount:
    """Nodes of a graph by how they compute, nested subgraphs included. Counts of kernels, not of runs of them."""

    nodes: int
    """All nodes."""
    integer: int
    """Kernels that compute on integers: QLinearConv, QLinearMatMul, QGemm, QLinearAdd, ..."""
    integer_convolutions: int
    quantize: int
    """QuantizeLinear nodes left over."""
    dequantize: int
    """DequantizeLinear nodes left over."""
    float_convolutions: int
    float_products: int
    """Gemm and MatMul on floats."""
    by_op: dict[str, int]
    """Nodes per operator type, sorted by name; operators outside ONNX's own domain as ``domain::Op``."""

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        return dict(vars(self))


def optimised(model: onnx.ModelProto | bytes | Path, level: Literal["extended", "all"] = "all") -> onnx.ModelProto:
    """The graph that onnxruntime executes for `model` after its own optimisation.

    "all" includes layouts of this machine's processor (the NCHWc domain on x86); "extended" leaves those out, so that
    the graph depends less on the machine. The result is for reading: onnx.checker knows few of its operators. Raises
    ModelError when onnxruntime refuses the model.
    """
    import onnx
    import onnxruntime as ort

    levels = {
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    with tempfile.TemporaryDirectory(prefix="lpcc-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = session_options(threads=1)
        options.graph_optimization_level = levels[level]
        options.optimized_model_filepath = str(path)
        # Weights go beside the graph, which keeps models of any size within protobuf's 2 GiB.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1048576")
        open_session(model, options)
        return onnx.load(path)


def count_kernels(model: onnx.ModelProto) -> KernelCount:
    """Count the kernels of a graph as it is; give it ``optimised(model)`` to learn what onnxruntime runs."""
    ops: Counter[str] = Counter(_op(node) for node in _nodes(model.graph))
    bare: Counter[str] = Counter()
    for op, count in ops.items():
        bare[op.rpartition("::")[2]] += count
    return KernelCount(
        nodes=ops.total(),
        integer=sum(n for op, n in bare.items() if op in _INTEGER or op.startswith("QLinear")),
        integer_convolutions=bare["QLinearConv"] + bare["ConvInteger"],
        quantize=bare["QuantizeLinear"],
        dequantize=bare["DequantizeLinear"],
        float_convolutions=sum(n for op, n in bare.items() if op in _CONVOLUTIONS),
        float_products=sum(n for op, n in bare.items() if op in _PRODUCTS),
        by_op=dict(sorted(ops.items())),
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _nodes(inner)


def _op(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
