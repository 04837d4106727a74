"""What onnxruntime's integer kernels can do with which operator, and what a node asks of its operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds


class Role(Enum):
    """How an operator takes part in an integer region."""

    CONTRACT = "contract"  # multiplies and accumulates with constant weights: what int8 is for
    COMPUTE = "compute"  # has an integer kernel, with a scale of its own for its output
    MOVE = "move"  # moves or selects values: its output has the scale of its input
    JOIN = "join"  # Concat: its output may have a scale of its own
    INTEGER = "integer"  # moves or selects values, on integers only if the graph itself says so: no Q/DQ around it


Bounds = tuple[float, float]
"""What an activation limits its output to."""


@dataclass(frozen=True)
class Operation:
    """An operator's place in an integer region: its role and the indices of its activation operands."""

    role: Role
    operands: tuple[int, ...]


_MOVES = frozenset(
    {
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "ReduceMax",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
SHRINKS = frozenset({"Gather", "MaxPool", "ReduceMax", "Slice"})
"""Operators that may write less than they read."""

HARD_SWISH_LOW = -3.0
"""Below this a HardSwish is zero: what it reads need not express less."""


@dataclass(frozen=True)
class Rules:
    """Which operators a runtime has integer kernels for, besides those that all have, and what these ask of scales.

    `unary` have a kernel with one operand and a scale of its own for the result. `spelt` are written on the integers
    themselves, as the runtime has no Q/DQ form of them (`lpcc.passes.quantize.forms`). `fixed` are results whose scale
    and zero point, for s8, the kernel prescribes. `moves` keep the scale of what they read. `float_output`: kernels
    that may write float. `joins`: whether a Concat has one scale for all its operands without exception, which
    kernels that clamp by themselves allow. `ends`: whether what stands at the end of integer kernels is to be one, too.
    """

    unary: frozenset[str]
    spelt: frozenset[str]
    fixed: Mapping[str, tuple[float, int]]
    moves: frozenset[str]
    float_output: frozenset[str]
    joins: bool
    ends: bool


ONNXRUNTIME = Rules(
    unary=frozenset({"AveragePool", "GlobalAveragePool", "HardSwish", "LeakyRelu", "Sigmoid"}),
    spelt=frozenset({"Clip", "HardSwish", "Max", "Min", "Relu"}),
    fixed={},
    moves=_MOVES,
    float_output=frozenset({"Gemm", "MatMul"}),
    joins=False,
    ends=False,
)
"""onnxruntime 1.31. There are integer kernels for Softmax and linear Resize too, which take longer than those in float
and the conversions around them."""

MICRO = Rules(
    unary=frozenset(
        {"GlobalAveragePool", "HardSwish", "LeakyRelu", "ReduceMean", "Relu", "Clip", "Sigmoid", "Softmax", "Tanh"}
    ),
    spelt=frozenset(),
    fixed={"Sigmoid": (1 / 256, -128), "Softmax": (1 / 256, -128), "Tanh": (1 / 128, 0)},
    moves=_MOVES | {"AveragePool"},
    float_output=frozenset(),
    joins=True,
    ends=True,
)
"""TensorFlow Lite's quantisation specification, which CMSIS-NN and X-CUBE-AI follow: pooling and concatenation keep the
scale, Softmax, Sigmoid and Tanh have one that is prescribed."""


def rules_of(runtime: str) -> Rules:
    """The rules of a target's runtime."""
    return MICRO if runtime in ("cmsis-nn", "tflite", "x-cube-ai", "vela") else ONNXRUNTIME


def operation(node: gs.Node, rules: Rules = ONNXRUNTIME) -> Operation | str | None:
    """What an operator is to the quantiser; a reason where it might have had an integer kernel; None for all others."""
    op = edit.op(node)
    if op in ("Conv", "Gemm", "MatMul"):
        reason = _contraction(node, op)
        return reason if reason else Operation(Role.CONTRACT, (0,))
    if op == "ConvTranspose":
        return "onnxruntime has no integer kernel for ConvTranspose"
    if not node.inputs or isinstance(node.inputs[0], gs.Constant) or not _is_float(node.inputs[0]):
        return _scaled(node) if op in ("Add", "Mul") and len(node.inputs) == 2 else None
    if op in ("Add", "Mul"):
        return Operation(Role.COMPUTE, (0, 1)) if _varies(node.inputs[1]) else _scaled(node)
    if op in ("AveragePool", "GlobalAveragePool"):
        if node.inputs[0].shape is None or len(node.inputs[0].shape) != 4:
            return "only two-dimensional pooling has an integer kernel"
        if edit.attr(node, "dilations") not in (None, [1, 1]):
            return "dilated average pooling has no integer kernel"
    if op == "Concat":
        if not all(_varies(t) for t in node.inputs):
            return "one operand is constant"
        return Operation(Role.JOIN, tuple(range(len(node.inputs))))
    if op == "Pad":
        mode = edit.attr(node, "mode", "constant")
        if mode == "constant" and edit.inp(node, 2) is not None and edit.scalar(edit.inp(node, 2)) is None:
            return "pads with a value that is not constant"
        return Operation(Role.INTEGER, (0,))
    if op == "Resize" and edit.attr(node, "mode", "nearest") != "nearest":
        return "only nearest-neighbour resizing works on integers"
    if op == "MaxPool" and edit.out(node, 1) is not None:
        return "the indices of MaxPool are used"
    if op == "HardSwish" and op in rules.spelt and len(node.inputs[0].outputs) > 1:
        return "others read what this HardSwish reads, whose range could not end at -3"
    if op in rules.moves:
        return Operation(Role.MOVE, (0,))
    if op in rules.unary:
        return Operation(Role.COMPUTE, (0,))
    return _spelt(node, op) if op in rules.spelt else None


def _scaled(node: gs.Node) -> Operation | str:
    """A sum or product with a constant, which becomes integers of the same type."""
    place = next((i for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant)), None)
    if place is None or not _varies(node.inputs[1 - place]):
        return "an operand is not float32"
    constant = node.inputs[place]
    if constant.dtype != np.float32 or not np.isfinite(constant.values).all() or not constant.values.any():
        return "the constant operand cannot be expressed in 8 bits"
    if len(constant.shape) > len(node.inputs[1 - place].shape or ()):
        return "the constant operand broadcasts the other one"
    return Operation(Role.COMPUTE, (1 - place,))


def _spelt(node: gs.Node, op: str) -> Operation | str | None:
    """An operator that works on the integers themselves, with one scale for all that it reads and writes."""
    if op in ("Relu", "Clip"):
        return Operation(Role.INTEGER, (0,)) if activation_bounds(node) is not None else None
    if len(node.inputs) != 2 or not all(_varies(t) for t in node.inputs):
        return None
    return Operation(Role.INTEGER, (0, 1))


def _varies(tensor: gs.Tensor) -> bool:
    return not isinstance(tensor, gs.Constant) and _is_float(tensor)


def _contraction(node: gs.Node, op: str) -> str | None:
    """Why a Conv, Gemm or MatMul has no integer kernel; None where it has."""
    weight, bias = edit.inp(node, 1), edit.inp(node, 2)
    if not isinstance(weight, gs.Constant):
        return "the weights are not constant"
    if weight.dtype != np.float32 or not _is_float(edit.inp(node, 0)):
        return f"computes in {weight.dtype}, not in float32"
    if bias is not None and not isinstance(bias, gs.Constant):
        return "the bias is not constant"
    if not all(weight.shape):
        return "the weights are empty"
    if op == "Conv":
        if len(weight.shape) not in (3, 4):
            return f"convolutions over {len(weight.shape) - 2} dimensions are no faster in int8"
        return None
    if len(weight.shape) != 2:
        return "the weights are no matrix"
    if op == "Gemm":
        if edit.attr(node, "transA", 0):
            return "its first operand is transposed"
        columns = weight.shape[0 if edit.attr(node, "transB", 0) else 1]
        size = 1 if bias is None else int(np.prod(bias.shape))
        if size not in (1, columns) or (bias is not None and size > 1 and bias.shape[-1] != columns):
            return "the bias differs by row"
    if not np.isfinite(weight.values).all():
        return "the weights are not finite"
    return None


def _is_float(tensor: gs.Tensor | None) -> bool:
    return tensor is not None and tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32


def activation_bounds(node: gs.Node) -> Bounds | None:
    """Limits of a Relu, or of a Clip with constant ends that keeps zero; None for any other node."""
    op = edit.op(node)
    if op == "Relu":
        return 0.0, np.inf
    if op != "Clip":
        return None
    least, most = clip_bounds(node)
    if least is None or most is None or not least <= 0.0 < most:
        return None
    return least, most
