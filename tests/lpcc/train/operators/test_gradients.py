"""The gradient of every operator, against finite differences in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from torch.autograd.gradcheck import GradcheckError  # noqa: E402

from lpcc.train.network.planner import HOST_INPUTS  # noqa: E402
from lpcc.train.operators import OPERATORS, Call, Mode, lower  # noqa: E402  (imports torch)

NOT_DIFFERENTIABLE = {
    *("And", "ArgMax", "ArgMin", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"),
    *("BitwiseXor", "Ceil", "Constant", "ConstantOfShape", "ConvInteger", "Equal", "EyeLike", "Floor", "Greater"),
    *("GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "MatMulInteger", "Multinomial", "NonZero"),
    *("NonMaxSuppression", "Not", "Or", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Range", "Round", "SequenceEmpty", "SequenceLength", "Shape", "Size", "Xor"),
}
"""Operators of integers and truths, and those that are constant almost everywhere."""

ELSEWHERE = {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "Sign"}
"""Operators that round: their gradients pass straight through, and have tests of their own."""


READS_VALUES = {"Compress", "CumProd", "MaxRoiPool", "RoiAlign", "Unique"}
"""Operators of which the size of the result, or the work, depends on the values."""


def real(*shape: int, seed: int = 0, low: float = -1.973, high: float = 2.031) -> Any:
    """Random reals, all different and away from zero by at least 1e-3, to be differentiated."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.permutation(np.linspace(low, high, int(np.prod(shape)) * 2 + 1)[1::2])
    values = np.where(np.abs(values) < 1e-3, 0.01, values)
    return torch.tensor(values.reshape(shape), dtype=torch.float64, requires_grad=True)


def positive(*shape: int, seed: int = 0) -> Any:
    return real(*shape, seed=seed, low=0.2, high=3.0)


def ints(*values: int) -> Any:
    return torch.tensor(values, dtype=torch.int64)


@dataclass(frozen=True)
class Case:
    """A node and what it is given; `attrs` as in ONNX."""

    op: str
    inputs: Sequence[Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    domain: str = ""
    training: bool = False
    sequence: bool = False
    """Whether the inputs are given as one list."""

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{self.attrs}"


IMAGE = (2, 2, 4, 5)
BIG = {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 1]}
BATCH = [real(3, 2, 4), real(2), real(2, seed=1), real(2, seed=2).detach(), positive(2).detach()]
SCALES = torch.tensor([1.0, 1.0, 1.5, 0.7])
SIZES = ints(2, 2, 7, 3)
UNARY = {
    **dict.fromkeys(["Abs", "Asinh", "Atan", "CastLike", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp"], real(3, 4)),
    **dict.fromkeys(["Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "LogSoftmax"], real(3, 4)),
    **dict.fromkeys(["LpNormalization", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid"], real(3, 4)),
    **dict.fromkeys(["Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Swish", "Tan", "Tanh"], real(3, 4)),
    **dict.fromkeys(["ThresholdedRelu"], real(3, 4)),
    **dict.fromkeys(["Acos", "Asin", "Atanh"], real(3, 4, low=-0.9, high=0.9)),
    **dict.fromkeys(["Log", "Sqrt"], positive(3, 4)),
    "Acosh": real(3, 4, low=1.2, high=3.0),
    "Det": real(2, 3, 3),
    "GlobalAveragePool": real(*IMAGE),
    "GlobalLpPool": real(*IMAGE),
    "GlobalMaxPool": real(*IMAGE),
    "LRN": real(2, 5, 3, 3),
    "MeanVarianceNormalization": real(2, 3, 2, 4),
    "Flatten": real(*IMAGE),
    "Transpose": real(2, 3, 4),
    "Trilu": real(3, 4),
    "Squeeze": real(2, 1, 3),
    "Dropout": real(3, 4),
}
ATTRS = {"LRN": {"size": 3, "alpha": 0.5}, "ThresholdedRelu": {"alpha": 0.6}, "Swish": {"alpha": 1.3}}
BINARY = ["Add", "Div", "Mul", "Pow", "Sub", "Max", "Mean", "Min", "Sum", "PRelu"]
REDUCTIONS = ["ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"]

CASES = [
    *(Case(op, [x] + [x.detach()] * (op == "CastLike"), ATTRS.get(op, {}), opset=20) for op, x in UNARY.items()),
    *(Case(op, [positive(2, 3, 4), positive(3, 1, seed=1)]) for op in BINARY),
    *(Case(op, [real(2, 3, 4)], {"axes": [0, 2], "keepdims": 0}, opset=11) for op in REDUCTIONS),
    Case("ReduceLogSum", [positive(2, 3, 4), ints(1)], opset=18),
    Case("ReduceSum", [real(2, 3, 4), ints(1, -1)]),
    Case("ReduceSumSquare", [real(2, 3, 4), ints(1)], opset=18),
    Case("Softmax", [real(2, 2, 3)], {"axis": 1}, opset=11),
    Case("Cast", [real(3, 4)], {"to": 11}),
    Case("Clip", [real(3, 4), torch.tensor(-0.8).double(), torch.tensor(0.9).double()]),
    Case("Clip", [real(3, 4)], {"min": -0.8, "max": 0.9}, opset=6 + 1),
    Case("Clip", [real(3, 4), torch.tensor(-0.8).double().requires_grad_(), torch.tensor(0.9).double()]),
    Case("Mod", [positive(3, 4), torch.tensor([0.71, 1.1, 0.93, 1.7]).double()], {"fmod": 1}),
    Case("PRelu", [real(2, 3, 4), real(3, 1, seed=1)]),
    Case("Pow", [real(3, 4), torch.tensor(3.0).double()]),
    Case("CumSum", [real(3, 4), ints(1)], {"exclusive": 1, "reverse": 1}),
    Case("CumProd", [real(3, 4), ints(1)], opset=26),
    Case("SwiGLU", [real(3, 4), real(3, 4, seed=1)], opset=28),
    Case("Where", [real(3, 4) > 0, real(3, 4), real(4, seed=1)]),
    Case("Conv", [real(2, 4, 5, 4), real(4, 2, 2, 3, seed=1), real(4)], {"group": 2, **BIG}),
    Case("Conv", [real(1, 2, 6), real(3, 2, 3, seed=1)], {"dilations": [2], "auto_pad": "SAME_LOWER"}),
    Case("Conv", [real(1, 1, 3, 3, 3), real(2, 1, 2, 2, 2, seed=1)], {"pads": [1] * 6}),
    Case("ConvTranspose", [real(1, 2, 3, 3), real(2, 2, 3, 2, seed=1), real(2)],
         {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    Case("ConvTranspose", [real(1, 2, 3), real(2, 2, 2, seed=1)], {"strides": [3], "output_padding": [2]}),
    Case("DeformConv", [real(1, 2, 4, 4), real(2, 1, 2, 2, seed=1), real(1, 16, 3, 3, low=-0.9, high=0.9), real(2),
                        real(1, 8, 3, 3)], {"group": 2, "offset_group": 2}, opset=19),
    Case("MaxPool", [real(*IMAGE)], BIG),
    Case("MaxPool", [real(*IMAGE)], {"kernel_shape": [2, 2], "dilations": [2, 1], "ceil_mode": 1}, outputs=2),
    Case("AveragePool", [real(*IMAGE)], BIG),
    Case("AveragePool", [real(*IMAGE)], {"kernel_shape": [2, 2], "dilations": [2, 1], "count_include_pad": 1},
         opset=19),
    Case("LpPool", [real(*IMAGE)], {"p": 3, **BIG}),
    Case("MaxUnpool", [real(1, 1, 2, 2), ints(0, 3, 9, 14).reshape(1, 1, 2, 2)],
         {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("BatchNormalization", BATCH),
    Case("BatchNormalization", BATCH, training=True),
    Case("BatchNormalization", BATCH, {"training_mode": 1}, outputs=3),
    Case("InstanceNormalization", [real(2, 3, 4), real(3), real(3, seed=1)]),
    Case("GroupNormalization", [real(2, 4, 3), real(4), real(4, seed=1)], {"num_groups": 2}, opset=21),
    Case("GroupNormalization", [real(2, 4, 3), real(2), real(2, seed=1)], {"num_groups": 2}, opset=18),
    Case("LayerNormalization", [real(2, 3, 4), real(3, 4), real(3, 4, seed=1)], {"axis": 1}),
    Case("LayerNormalization", [real(2, 3, 4), real(4)], outputs=3),
    Case("RMSNormalization", [real(2, 3, 4), real(4)], opset=23),
    Case("SkipLayerNormalization", [real(2, 3, 4), real(2, 3, 4, seed=1), real(4), real(4, seed=1), real(4, seed=2)],
         domain="com.microsoft"),
    Case("LpNormalization", [real(3, 4)], {"p": 1, "axis": 0}),
    Case("Gemm", [real(3, 2), real(4, 3), real(4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [real(2, 3), real(4, 3), real(4)], {"transB": 1}),
    Case("MatMul", [real(2, 3, 4), real(4, 2)]),
    Case("Einsum", [real(2, 3), real(3, 4)], {"equation": "ij, jk -> ik"}),
    Case("FusedMatMul", [real(2, 4, 3), real(2, 4, 2)], {"transA": 1, "alpha": 0.5}, domain="com.microsoft"),
    Case("FusedConv", [real(1, 2, 4, 4), real(2, 2, 3, 3), real(2), real(1, 2, 2, 2)],
         {"activation": "LeakyRelu", "activation_params": [0.2]}, domain="com.microsoft"),
    Case("FusedGemm", [real(2, 3), real(3, 4), real(4)], {"activation": "Tanh"}, domain="com.microsoft"),
    *(Case(op, [real(3, 4)], domain="com.microsoft") for op in ("Gelu", "QuickGelu")),
    *(Case(op, [real(3, 4), real(4)], domain="com.microsoft") for op in ("BiasGelu", "FastGelu")),
    Case("Reshape", [real(2, 3, 4), ints(0, -1)]),
    Case("Concat", [real(2, 3), real(2, 1, seed=1)], {"axis": 1}),
    Case("Split", [real(5, 2)], {"num_outputs": 2}, opset=18, outputs=2),
    Case("Slice", [real(5, 6), ints(4, 0), ints(-9, 5), ints(0, 1), ints(-2, 3)]),
    *(Case("Pad", [real(2, 3, 4, 5), ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": mode}, opset=19)
      for mode in ("constant", "edge", "reflect", "wrap")),
    Case("Pad", [real(3, 4), ints(1, -1, 2, -1)], {"mode": "edge"}),
    Case("Expand", [real(3, 1), ints(2, 1, 4)]),
    Case("Tile", [real(2, 3), ints(2, 2)]),
    Case("Unsqueeze", [real(2, 3), ints(0, -1)]),
    *(Case("DepthToSpace", [real(1, 8, 2, 2)], {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    Case("SpaceToDepth", [real(1, 2, 4, 4)], {"blocksize": 2}),
    Case("ReverseSequence", [real(4, 2, 2), ints(3, 1)]),
    Case("CenterCropPad", [real(4, 3), ints(2, 5)], opset=18),
    Case("Col2Im", [real(1, 8, 4), ints(3, 3), ints(2, 2)], opset=18),
    Case("Gather", [real(3, 4), ints(2, -1, 2)], {"axis": 1}),
    Case("Gather", [real(3, 4), torch.tensor(1)], {"axis": 1}),
    Case("GatherElements", [real(3, 4), ints(0, -1, 1, 1, 2, 0).reshape(3, 2)], {"axis": 1}),
    Case("GatherND", [real(2, 3, 4), ints(0, 2, 1, -1).reshape(2, 2)]),
    *(Case("ScatterElements", [real(3, 4), ints(0, 2).reshape(1, 2), real(1, 2, seed=1)], {"axis": 1, "reduction": how},
           opset=18) for how in ("none", "add", "mul", "max", "min")),
    Case("Scatter", [real(3, 4), ints(0, 2).reshape(1, 2), real(1, 2, seed=1)], opset=9),
    *(Case("ScatterND", [real(3, 4), ints(0, 2).reshape(2, 1), real(2, 4, seed=1)], {"reduction": how}, opset=18)
      for how in ("none", "add", "mul", "max")),
    Case("TensorScatter", [real(2, 4, 3), real(2, 2, 3, seed=1), ints(1, 0)], opset=24),
    Case("Compress", [real(3, 4), torch.tensor([True, False, True])], {"axis": 0}),
    Case("OneHot", [ints(1, 0, 2), torch.tensor(3), real(2)]),
    Case("TopK", [real(3, 5), ints(2)], {"axis": 1}, outputs=2),
    Case("Unique", [real(6)], outputs=1),
    *(Case("Resize", [real(*IMAGE), None, SCALES], {"mode": mode, "coordinate_transformation_mode": at}, opset=13)
      for mode in ("nearest", "linear", "cubic") for at in ("half_pixel", "align_corners", "asymmetric")),
    Case("Resize", [real(*IMAGE), None, None, SIZES], {"mode": "linear", "antialias": 1}, opset=18),
    Case("Resize", [real(*IMAGE), None, None, ints(2, 2, 8, 10)], {"mode": "nearest"}, opset=18),
    Case("Upsample", [real(*IMAGE)], {"mode": "linear", "scales": [1.0, 1.0, 2.0, 1.5]}, opset=7),
    *(Case("GridSample", [real(1, 2, 4, 4), real(1, 3, 2, 2, low=-1.2, high=1.2)], {"mode": mode, "padding_mode": pad})
      for mode in ("bilinear", "bicubic") for pad in ("zeros", "border", "reflection")),
    Case("AffineGrid", [real(1, 2, 3), ints(1, 1, 3, 4)], opset=20),
    *(Case("RoiAlign", [real(2, 2, 6, 7), torch.tensor([[0.5, 1.0, 4.2, 5.0], [1.0, 0.2, 5.1, 3.3]]).double(),
                        ints(0, 1)], {"output_height": 2, "output_width": 3, "sampling_ratio": ratio})
      for ratio in (0, 2)),
    Case("RoiAlign", [real(1, 1, 6, 7), torch.tensor([[0.53, 1.07, 4.2, 5.0]]).double().requires_grad_(), ints(0)],
         {"output_height": 2, "output_width": 3, "sampling_ratio": 2}),
    Case("MaxRoiPool", [real(1, 2, 6, 6), torch.tensor([[0.0, 0, 1, 4, 5]]).double()], {"pooled_shape": [2, 2]}),
    *(Case(op, [real(3, 2, 2), real(1, gates * 3, 2), real(1, gates * 3, 3), real(1, gates * 6)],
           {"hidden_size": 3, **more}, opset=14, outputs=2)
      for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)) for more in ({}, {"clip": 1.5})),
    Case("LSTM", [real(3, 2, 2), real(2, 12, 2), real(2, 12, 3), real(2, 24), ints(3, 1).int(), real(2, 2, 3),
                  real(2, 2, 3, seed=1), real(2, 9)], {"hidden_size": 3, "direction": "bidirectional"},
         opset=14, outputs=3),
    Case("GRU", [real(3, 2, 2), real(2, 9, 2), real(2, 9, 3), real(2, 18)],
         {"hidden_size": 3, "direction": "bidirectional", "linear_before_reset": 1}, opset=14, outputs=2),
    Case("Attention", [real(1, 2, 3, 4), real(1, 2, 5, 4), real(1, 2, 5, 4, seed=1)], {"is_causal": 1}, opset=23),
    Case("RotaryEmbedding", [real(1, 2, 3, 4), real(1, 3, 2), real(1, 3, 2, seed=1)], opset=23),
    Case("NegativeLogLikelihoodLoss", [real(3, 4), ints(0, 3, 1), positive(4)], {"ignore_index": 3}, opset=13),
    Case("SoftmaxCrossEntropyLoss", [real(3, 4), ints(0, 3, 1)], opset=13, outputs=2),
    Case("SequenceConstruct", [real(2, 3), real(2, 3, seed=1)]),
    Case("SequenceAt", [real(2, 3), real(2, 3, seed=1), ints(1)[0]], sequence=True),
    Case("SequenceErase", [real(2, 3), real(2, 3, seed=1)], sequence=True),
    Case("SequenceInsert", [real(2, 3), real(2, 3, seed=1)], sequence=True),
    Case("ConcatFromSequence", [real(2, 3), real(1, 3, seed=1)], {"axis": 0}, sequence=True),
    Case("SplitToSequence", [real(4, 3), torch.tensor(2)]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient(case: Case) -> None:
    mode = Mode(training=case.training)
    call = Call(case.op, case.domain, case.opset, case.attrs, len(case.inputs), case.outputs, mode=mode)
    kernel = lower(call)
    places = [i for i, x in enumerate(case.inputs) if x is not None and x.requires_grad]
    fed = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in case.inputs]
    assert places

    def function(*differentiated: Any) -> Any:
        given = list(fed)
        for place, value in zip(places, differentiated, strict=True):
            given[place] = value
        if case.sequence:
            given = _as_sequence(case.op, given)
        found = kernel(*given)
        found = found if isinstance(found, tuple | list) else (found,)
        return tuple(y for y in found if isinstance(y, torch.Tensor) and y.is_floating_point())

    assert torch.autograd.gradcheck(function, [case.inputs[i].detach().clone().requires_grad_() for i in places])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activations_of_half_precision_meet_weights_of_single(case: Case) -> None:
    """As under autocast: what comes from convolutions is bfloat16, parameters are float32."""
    kernel = lower(Call(case.op, case.domain, case.opset, case.attrs, len(case.inputs), case.outputs))

    def outputs(*, mixed: bool) -> list[Any]:
        given = [x.detach().float() if x is not None and x.is_floating_point() else x for x in case.inputs]
        if mixed and case.inputs[0].is_floating_point():
            given[0] = given[0].to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = kernel(*(_as_sequence(case.op, given) if case.sequence else given))
        found = found if isinstance(found, tuple | list) else (found,)
        return [y.float() for y in found if isinstance(y, torch.Tensor) and y.is_floating_point()]

    for half, single in zip(outputs(mixed=True), outputs(mixed=False), strict=True):
        torch.testing.assert_close(half, single, rtol=0.05, atol=0.05 * max(single.abs().max().item(), 1e-3))


@pytest.mark.parametrize("case", [case for case in CASES if case.op not in READS_VALUES], ids=str)
def test_results_are_where_the_data_is(case: Case) -> None:
    """Data on torch's device `meta`, sizes on the CPU, as the planner has them: no operator mixes the two."""
    sizes = HOST_INPUTS.get(case.op, ())
    if case.sequence:
        sizes = tuple(i for i, x in enumerate(case.inputs) if not x.is_floating_point())
    given = [x if x is None or i in sizes else x.detach().to("meta") for i, x in enumerate(case.inputs)]
    kernel = lower(Call(case.op, case.domain, case.opset, case.attrs, len(case.inputs), case.outputs))
    found = kernel(*(_as_sequence(case.op, given) if case.sequence else given))
    for y in found if isinstance(found, tuple | list) else (found,):
        assert y.device.type == "meta"


def _as_sequence(op: str, given: list[Any]) -> list[Any]:
    if op == "SequenceAt":
        return [given[:-1], given[-1]]
    if op == "SequenceInsert":
        return [given[:-1], given[-1]]
    return [given]


def test_every_operator_has_a_case() -> None:
    covered = {case.op for case in CASES}
    names = {op for _, op in OPERATORS}
    assert names - covered - NOT_DIFFERENTIABLE - ELSEWHERE == set()
    assert (covered | NOT_DIFFERENTIABLE | ELSEWHERE) - names == set()


def test_a_wrong_gradient_is_seen() -> None:
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda x: x.round() + (x - x.detach()), [real(3)])
