"""Operators as they were at each opset from 7 on, against onnxruntime: attributes that became inputs, and defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

Compare = Callable[..., list[np.ndarray[Any, Any]]]


def real(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def number(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


X = real(2, 3, 4, 5)
BATCH = [X, real(3), real(3, seed=1), real(3, seed=2), np.abs(real(3, seed=3)) + 0.1]
WINDOW = {"kernel_shape": [2, 3], "strides": [2, 1]}
DEPTH = real(1, 8, 2, 3)


@dataclass(frozen=True)
class Case:
    op: str
    opsets: Sequence[int]
    inputs: Sequence[Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


REDUCTIONS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]
CASES = [
    Case("Squeeze", [7, 11], [real(2, 1, 3, 1)], {"axes": [1]}),
    Case("Squeeze", [7, 11, 13], [real(2, 1, 3, 1)]),
    Case("Squeeze", [13, 17, 21], [real(2, 1, 3, 1), ints(-1, 1)]),
    Case("Unsqueeze", [7, 11], [real(2, 3)], {"axes": [0, 3]}),
    Case("Unsqueeze", [13, 21], [real(2, 3), ints(3, 0)]),
    *(Case(f"Reduce{how}", [7, 11, 13], [X], {"axes": [1, 3], "keepdims": 0}) for how in REDUCTIONS),
    *(Case(f"Reduce{how}", [18], [X, ints(1, -1)], {"keepdims": 0}) for how in REDUCTIONS),
    *(Case(f"Reduce{how}", [18], [X], {"noop_with_empty_axes": 1}) for how in ("Max", "Mean", "Min")),
    Case("ReduceSum", [7, 11], [X], {"axes": [2]}),
    Case("ReduceSum", [13, 18], [X, ints(2)]),
    Case("ReduceSum", [13], [X], {"noop_with_empty_axes": 1}),
    Case("ReduceLogSum", [13], [np.abs(X)], {"axes": [0]}),
    Case("Slice", [7, 9], [X], {"starts": [1, -3], "ends": [1000, -1], "axes": [1, 3]}),
    Case("Slice", [10, 13], [X, ints(1, -1), ints(3, -100), ints(1, 3), ints(1, -2)]),
    Case("Slice", [10], [X, ints(0, 1), ints(2, 2)]),
    *(Case("Pad", [7], [X], {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": m}) for m in ("constant", "edge", "reflect")),
    Case("Pad", [7], [X], {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "value": 1.5}),
    *(Case("Pad", [11, 13], [X, ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": m}) for m in ("constant", "edge", "reflect")),
    Case("Pad", [11, 13], [X, ints(0, 1, 0, -1, 0, 0, 0, 2), number(2.5)]),
    Case("Pad", [18, 19], [X, ints(1, 2, 0, 1), number(2.5), ints(-1, 1)]),
    Case("Split", [7, 11], [X], {"axis": 3, "split": [2, 3]}, outputs=2),
    Case("Split", [7, 11, 13], [X], {"axis": 2}, outputs=2),
    Case("Split", [13, 18], [X, ints(1, 4)], {"axis": 3}, outputs=2),
    Case("Split", [18], [X], {"axis": 3, "num_outputs": 2}, outputs=2),
    Case("Clip", [7], [X], {"min": -0.5, "max": 0.7}),
    Case("Clip", [7], [X]),
    Case("Clip", [11, 12, 13], [X, None, number(0.5)]),
    Case("Clip", [11, 13], [X, number(-0.5)]),
    Case("Clip", [12], [np.arange(-4, 4, dtype=np.int8), np.array(-2, np.int8), np.array(3, np.int8)]),
    Case("Dropout", [7, 10], [X], {"ratio": 0.3}),
    Case("Dropout", [12, 13], [X, number(0.3)]),
    *(Case(op, [7, 11, 13], [real(2, 3, 4)]) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Case(op, [7, 11, 13], [real(2, 3, 4)], {"axis": 2}) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Case(op, [11, 13], [real(2, 3, 4)], {"axis": -2}) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    Case("Softmax", [7, 12], [real(2, 3, 4)], {"axis": 0}),
    Case("TopK", [7, 9], [X], {"k": 2, "axis": 1}, outputs=2),
    Case("TopK", [10, 11], [X, ints(2)], {"axis": 2}, outputs=2),
    Case("TopK", [11], [X.round(), ints(3)], {"axis": 3, "largest": 0}, outputs=2),
    *(Case(op, [7, 11, 13], [X.round()], {"axis": 2, "keepdims": 0}) for op in ("ArgMax", "ArgMin")),
    *(Case(op, [12, 13], [X.round()], {"axis": 3, "select_last_index": 1}) for op in ("ArgMax", "ArgMin")),
    Case("Gemm", [7, 9, 11, 13], [real(3, 4), real(4, 5), real(5)]),
    Case("Gemm", [7, 11, 13], [real(4, 3), real(5, 4), real(3, 1)],
         {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [11, 13], [real(3, 4), real(4, 5)], {"alpha": 2.0}),
    Case("BatchNormalization", [7, 9, 14, 15], BATCH, {"epsilon": 1e-3}),
    Case("BatchNormalization", [7, 9, 15], [real(4, 3), *BATCH[1:]]),
    Case("Flatten", [7, 9, 13], [X], {"axis": 2}),
    Case("Flatten", [11, 13], [X], {"axis": -1}),
    Case("Flatten", [7, 13], [X], {"axis": 0}),
    Case("Reshape", [7, 13, 14], [X, ints(0, -1, 5)]),
    Case("Reshape", [14], [np.zeros((0, 3), np.float32), ints(3, 0)], {"allowzero": 1}),
    Case("MaxPool", [7, 8, 10, 11, 12], [X], WINDOW),
    Case("MaxPool", [10, 12], [X], {**WINDOW, "ceil_mode": 1, "dilations": [2, 1]}),
    Case("AveragePool", [7, 10, 11], [X], {**WINDOW, "pads": [1, 0, 0, 2], "count_include_pad": 1}),
    Case("AveragePool", [10, 11], [X], {**WINDOW, "ceil_mode": 1}),
    Case("LpPool", [7, 11], [X], WINDOW),
    *(Case(op, [7, 13], [real(2, 3, 4), real(3, 1)]) for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, [7, 13], [ints(7, -7, 5), ints(2, 2, -3)]) for op in ("Add", "Sub", "Mul", "Div")),
    Case("Div", [14], [np.array([7, -7], np.int8), np.array([2, 2], np.int8)]),
    *(Case(op, [8, 12, 13], [real(3, 4), real(4), real(3, 1)]) for op in ("Max", "Min", "Sum", "Mean")),
    Case("Pow", [7, 12, 13], [np.abs(real(3, 4)), real(4)]),
    Case("Pow", [12, 13], [ints(2, 3, -4), number(2.0)]),
    Case("PRelu", [7, 9, 16], [X, np.abs(real(3, 1, 1))]),
    Case("PRelu", [7, 16], [X, np.abs(real(5))]),
    Case("PRelu", [16], [X, number(0.3).reshape(1)]),
    *(Case(op, [7, 9, 13], [real(3, 4), real(4)]) for op in ("Greater", "Less")),
    Case("Equal", [7, 11, 13], [ints(1, 2, 3), ints(1, 0, 3)]),
    *(Case(op, [12, 16], [real(3, 4), real(4)]) for op in ("GreaterOrEqual", "LessOrEqual")),
    *(Case(op, [7], [np.array([True, False]), np.array([True, True])]) for op in ("And", "Or", "Xor")),
    Case("Mod", [10, 13], [ints(7, -7, 5), ints(3, 3, -3)]),
    Case("Mod", [10, 13], [real(3, 4), np.abs(real(4)) + 0.1], {"fmod": 1}),
    Case("BitShift", [11], [np.array([1, 200, 7], np.uint8), np.array([1, 2, 3], np.uint8)], {"direction": "LEFT"}),
    Case("BitShift", [11], [np.array([1, 200, 7], np.uint8), np.array([1, 2, 3], np.uint8)], {"direction": "RIGHT"}),
    Case("CumSum", [11, 14], [real(3, 4), np.array(1)], {"exclusive": 1, "reverse": 1}),
    *(Case(op, [7, 13], [real(3, 4)]) for op in ("Neg", "Abs", "Exp", "Ceil", "Floor", "Sigmoid", "Tanh", "Relu")),
    *(Case(op, [7, 22], [real(3, 4)]) for op in ("Sin", "Cos", "Tan", "Atan", "Softplus", "Softsign", "Elu", "Selu")),
    *(Case(op, [9], [real(3, 4)]) for op in ("Sinh", "Cosh", "Asinh", "Erf")),
    *(Case(op, [9, 13], [real(3, 4)]) for op in ("Erf", "Sign", "IsNaN")),
    Case("Round", [11], [np.array([0.5, 1.5, -2.5, 2.3], np.float32)]),
    Case("HardSigmoid", [7], [real(3, 4) * 4]),
    Case("HardSigmoid", [7], [real(3, 4) * 4], {"alpha": 0.16666667163372, "beta": 0.5}),
    Case("HardSwish", [14], [real(3, 4) * 4]),
    Case("Mish", [18], [real(3, 4)]),
    Case("Celu", [12], [real(3, 4)], {"alpha": 0.7}),
    Case("LeakyRelu", [7, 16], [real(3, 4)], {"alpha": 0.3}),
    Case("ThresholdedRelu", [10], [real(3, 4)], {"alpha": 0.3}),
    Case("Shrink", [9], [real(3, 4)], {"lambd": 0.4, "bias": 0.1}),
    Case("Gelu", [20], [real(3, 4)]),
    Case("Gelu", [20], [real(3, 4)], {"approximate": "tanh"}),
    Case("IsInf", [10], [np.array([1, np.inf, -np.inf], np.float32)], {"detect_negative": 0}),
    Case("LRN", [7, 13], [X], {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5}),
    Case("InstanceNormalization", [7], [X, real(3), real(3, seed=1)]),
    Case("GroupNormalization", [21], [real(2, 4, 3, 3), real(4), real(4, seed=1)], {"num_groups": 2}),
    Case("LayerNormalization", [17], [X, real(4, 5), real(4, 5, seed=1)], {"axis": 2}),
    Case("LayerNormalization", [17], [X, real(5)]),
    *(Case("LpNormalization", [7], [real(3, 4)], {"p": p, "axis": 0}) for p in (1, 2)),
    Case("MeanVarianceNormalization", [9, 13], [X]),
    Case("GlobalAveragePool", [7], [X]),
    Case("GlobalMaxPool", [7], [X]),
    Case("GlobalLpPool", [7], [X], {"p": 3}),
    Case("MatMul", [7, 9, 13], [real(2, 3, 4), real(4, 5)]),
    Case("MatMul", [13], [real(4), real(2, 4, 5)]),
    Case("Einsum", [12], [real(2, 3, 4), real(2, 5, 4)], {"equation": "bij,bkj->bik"}),
    Case("MatMulInteger", [10], [np.array([[1, 200, 3]], np.uint8), np.array([[1], [-2], [3]], np.int8),
                                 np.array(2, np.uint8), np.array(1, np.int8)]),
    Case("ConvInteger", [10], [np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2), np.uint8),
                               np.array(2, np.uint8)], {"pads": [1, 1, 0, 0]}),
    Case("Transpose", [7, 13], [X], {"perm": [0, 2, 3, 1]}),
    Case("Transpose", [7, 13], [X]),
    Case("Concat", [7, 11, 13], [real(2, 3), real(2, 2)], {"axis": 1}),
    Case("Gather", [7, 11, 13], [X, ints(0, 2).reshape(1, 2)], {"axis": 1}),
    Case("Gather", [11, 13], [X, np.array(-1)], {"axis": 2}),
    Case("GatherElements", [11, 13], [real(3, 4), ints(0, -1).reshape(1, 2)], {"axis": 0}),
    Case("GatherND", [11, 13], [X, ints(0, 1, 1, 2).reshape(2, 2)]),
    Case("GatherND", [12, 13], [X, ints(1, 0).reshape(2, 1)], {"batch_dims": 1}),
    Case("Scatter", [9], [real(3, 4), ints(0, 2).reshape(1, 2), real(1, 2, seed=1)], {"axis": 1}),
    Case("ScatterElements", [11, 13], [real(3, 4), ints(0, -2).reshape(1, 2), real(1, 2, seed=1)], {"axis": 1}),
    *(Case("ScatterElements", [18], [real(3, 4), ints(0, 0).reshape(1, 2), real(1, 2, seed=1)],
           {"axis": 1, "reduction": how}) for how in ("add", "mul", "max", "min")),
    Case("ScatterND", [11, 13], [real(3, 4), ints(0, -1).reshape(2, 1), real(2, 4, seed=1)]),
    *(Case("ScatterND", [18], [real(3, 4), ints(0, 0).reshape(2, 1), real(2, 4, seed=1)], {"reduction": how})
      for how in ("add", "mul", "max", "min")),
    Case("Expand", [8, 13], [real(3, 1), ints(2, 1, 4)]),
    Case("Tile", [7, 13], [real(2, 3), ints(2, 3)]),
    Case("DepthToSpace", [7, 11, 13], [DEPTH], {"blocksize": 2}),
    Case("DepthToSpace", [11, 13], [DEPTH], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [7, 13], [real(1, 2, 4, 6)], {"blocksize": 2}),
    Case("OneHot", [9, 11], [ints(0, 2, -1), np.array(3), np.array([0, 5], np.float32)], {"axis": 0}),
    Case("Trilu", [14], [real(3, 4), np.array(1)], {"upper": 0}),
    Case("ReverseSequence", [10], [real(4, 3), ints(2, 4, 1)]),
    Case("Compress", [9, 11], [real(3, 4), np.array([True, False, True])], {"axis": 0}),
    Case("Compress", [9], [real(3, 4), np.array([True, False, True])]),
    Case("NonZero", [9, 13], [real(3, 4) > 0]),
    Case("Where", [9, 16], [real(3, 4) > 0, real(3, 4), real(4)]),
    Case("Shape", [7, 13, 15], [X]),
    Case("Shape", [15], [X], {"start": -3, "end": -1}),
    Case("Size", [7, 13], [X]),
    Case("Range", [11], [np.array(7), np.array(-2), np.array(-3)]),
    Case("ConstantOfShape", [9], [ints(2, 3)]),
    Case("EyeLike", [9], [real(3, 4)], {"k": 1}),
    Case("Cast", [7, 9, 13], [real(3, 4) * 3], {"to": 6}),
    Case("Cast", [9, 13], [real(3, 4) * 3], {"to": 9}),
    Case("Cast", [13, 19], [np.array([3.7, -3.7, 120.2], np.float32)], {"to": 3}),
    Case("Det", [11], [real(2, 3, 3)]),
    Case("Unique", [11], [np.array([3, 1, 3, 2], np.float32)], outputs=4),
    Case("Unique", [11], [np.array([3, 1, 3, 2], np.float32)], {"sorted": 0}, outputs=4),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.attrs}")
def test_as_onnxruntime(same: Compare, case: Case) -> None:
    for opset in case.opsets:
        same(case.op, case.inputs, opset=opset, outputs=case.outputs, **case.attrs)


def test_opset_6_and_unknown_operators_are_refused() -> None:
    from lpcc.train.operators import Call, Unsupported, lower

    with pytest.raises(Unsupported, match="opset 6 is older than 7"):
        lower(Call("Add", opset=6))
    with pytest.raises(Unsupported, match="not known"):
        lower(Call("Nothing", opset=17))
    with pytest.raises(Unsupported, match="not known"):
        lower(Call("Relu", domain="my.domain", opset=1))
