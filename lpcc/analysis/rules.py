"""What holds for operators in every runtime: kinds of kernels, number formats, what is computed beforehand."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit

if TYPE_CHECKING:
    from lpcc.analysis.integer import Integers

QUANTIZE = frozenset({"QuantizeLinear", "com.microsoft::QuantizeLinear"})
DEQUANTIZE = frozenset({"DequantizeLinear", "com.microsoft::DequantizeLinear"})

_RANDOM = frozenset(
    [
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "If",
        "Loop",
        "Scan",
    ]
)

KINDS: dict[str, str] = {}
"""Kernel kind of an operator that is neither a convolution nor a plain matrix product; others are ``other``."""

for _kind, _ops in {
    "view": "Reshape Flatten Squeeze Unsqueeze Identity Dropout Optional OptionalGetElement",
    "elementwise": "Add Sub Mul Div Max Min Neg Abs Relu LeakyRelu PRelu Clip HardSigmoid HardSwish ThresholdedRelu "
    "Where Sum Mean Mod Floor Ceil Round Sign Not And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual Sqrt "
    "Reciprocal Cast com.microsoft::QLinearAdd com.microsoft::QLinearMul com.microsoft::QLinearLeakyRelu",
    "activation": "Sigmoid Tanh Exp Log Erf Gelu Elu Selu Celu Mish Softplus Softsign Pow Sin Cos Swish "
    "com.microsoft::QuickGelu com.microsoft::Gelu com.microsoft::FastGelu com.microsoft::QLinearSigmoid",
    "pool": "MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool com.microsoft::QLinearAveragePool "
    "com.microsoft::QLinearGlobalAveragePool com.microsoft::NhwcMaxPool",
    "concat": "Concat com.microsoft::QLinearConcat",
    "copy": "Slice Pad Split Gather GatherElements GatherND ScatterND ScatterElements Expand Tile",
    "transpose": "Transpose DepthToSpace SpaceToDepth",
    "resize": "Resize Upsample GridSample RoiAlign",
    "reduce": "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp "
    "ArgMax ArgMin com.microsoft::QLinearReduceMean",
    "softmax": "Softmax LogSoftmax com.microsoft::QLinearSoftmax",
    "norm": "BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LRN LpNormalization "
    "SimplifiedLayerNormalization com.microsoft::SkipLayerNormalization "
    "com.microsoft::SkipSimplifiedLayerNormalization",
    "rnn": "LSTM GRU RNN com.microsoft::DynamicQuantizeLSTM",
    "matmul": "Einsum Attention com.microsoft::Attention com.microsoft::MultiHeadAttention",
    "gemm": "com.microsoft::MatMulNBits",
    "quantize": "QuantizeLinear DynamicQuantizeLinear com.microsoft::QuantizeLinear",
    "dequantize": "DequantizeLinear com.microsoft::DequantizeLinear",
}.items():
    KINDS.update(dict.fromkeys(_ops.split(), _kind))


def folds(node: gs.Node, op: str, folded: set[int]) -> bool:
    """Whether the runtime computes a node once, when it loads the model."""
    if op == "Constant":
        return True
    if op in ("Shape", "Size"):
        shape = node.inputs[0].shape
        return shape is not None and all(isinstance(dim, int) for dim in shape)
    if op in _RANDOM or op in DEQUANTIZE or not node.inputs:
        return False
    return all(isinstance(t, gs.Constant) or t.name == "" or id(t) in folded for t in node.inputs)


def folded(graph: gs.Graph, outside: Set[int] = frozenset()) -> set[int]:
    """Ids of the tensors that the runtime computes once, when it loads the model; nested graphs included.

    `outside` holds those of the graphs around it.
    """
    found = set(outside)
    for node in graph.nodes:
        if folds(node, edit.op(node), found):
            found.update(id(tensor) for tensor in node.outputs)
        for body in edit.subgraphs(node):
            found |= folded(body, found)
    return found


def dtype_of(tensor: gs.Tensor) -> np.dtype:
    """Number format of a tensor; float32 where it is unknown."""
    try:
        return np.dtype(np.float32 if tensor.dtype is None else tensor.dtype)
    except TypeError:
        return np.dtype(np.float32)


@cache
def bits(dtype: np.dtype) -> int:
    """Bits per element, sub-byte formats packed."""
    small = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
    return small.get(dtype.name, dtype.itemsize * 8)


def scheme(activations: np.dtype, weights: np.dtype) -> str:
    """Name of a scheme of integers: ``u8s8``, ``s16s8``."""
    return "".join(f"{'u' if dtype.kind == 'u' else 's'}{8 * dtype.itemsize}" for dtype in (activations, weights))


def format_of(node: gs.Node, op: str, integers: Integers) -> tuple[str, str]:
    """Number format and scheme that an operator computes in outside of Q/DQ groups."""
    if "QLinear" in op or "Integer" in op or "QGemm" in op or "DynamicQuantizeMatMul" in op:
        second = 3 if (len(node.inputs) > 3 and "QLinear" in op) or "QGemm" in op else min(1, len(node.inputs) - 1)
        return "int8", scheme(dtype_of(node.inputs[0]), dtype_of(node.inputs[second]))
    if op in QUANTIZE or op in DEQUANTIZE or op == "DynamicQuantizeLinear":
        return "int8", "int8"
    first = edit.inp(node, 0)
    if first is not None and integers.is_integer(first):
        return "int8", "int8"
    name = dtype_of(node.outputs[0] if node.outputs else gs.Variable("")).name
    return name, name
