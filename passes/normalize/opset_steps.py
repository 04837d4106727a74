"""What changed in ONNX's operators from opset 7 to 25, and how a node is rewritten to mean the same. For `raise-opset`.

Sources: the operators' change logs (https://onnx.ai/onnx/operators/), and for Upsample and the first Resize, whose
texts leave the coordinates open, what onnxruntime computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shape_values import ShapeValues

LOWEST: Final = 7
HIGHEST: Final = 25

Check = Callable[[gs.Node], str]
"""Why a node cannot be rewritten; empty if it can."""

Step = Callable[[edit.Edit, gs.Node, ShapeValues], None]
"""Rewrites a node of the version before so that it means the same in the new one."""


def same(_e: edit.Edit, _node: gs.Node, _found: ShapeValues) -> None:
    """The new version accepts more types, axes or attributes, and means the same by what was legal before."""


def _vector(e: edit.Edit, node: gs.Node, name: str, values: Any, dtype: Any = np.int64) -> gs.Constant:
    return e.constant(f"{node.outputs[0].name}_{name}", np.asarray(values, dtype=dtype))


def _attribute_to_input(name: str, index: int) -> Step:
    """An attribute with a list of integers became an input."""

    def step(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
        if name in node.attrs:
            e.replace_input(node, index, _vector(e, node, name, node.attrs.pop(name)))

    return step


def _drop(*names: str) -> Step:
    """Attributes that changed nothing went."""

    def step(_e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
        for name in names:
            node.attrs.pop(name, None)

    return step


def _default(name: str, value: Any) -> Step:
    """The default of an attribute changed: the old one is written down."""

    def step(_e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
        node.attrs.setdefault(name, value)

    return step


def _renamed(op: str) -> Step:
    def step(_e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
        node.op = op

    return step


def _clip(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    for index, name in ((1, "min"), (2, "max")):
        if name in node.attrs:
            bound = np.asarray(node.attrs.pop(name), dtype=node.inputs[0].dtype)
            e.replace_input(node, index, e.constant(f"{node.outputs[0].name}_{name}", bound))


def _dropout(_e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    """The ratio became an input, which only counts in training."""
    node.attrs.pop("ratio", None)


def _pad(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    value = node.attrs.pop("value", 0.0)
    e.replace_input(node, 1, _vector(e, node, "pads", node.attrs.pop("pads")))
    if value:
        e.replace_input(node, 2, _vector(e, node, "value", value, node.inputs[0].dtype))


def _slice(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        if name in node.attrs:
            e.replace_input(node, index, _vector(e, node, name, node.attrs.pop(name)))


def _top_k(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    e.replace_input(node, 1, _vector(e, node, "k", [node.attrs.pop("k")]))


def _upsample_scales(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    e.replace_input(node, 1, _vector(e, node, "scales", node.attrs.pop("scales"), np.float32))


def _resize(e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    """Up to opset 10 coordinates are divided by the scale, and rounded down, but up where the scale shrinks."""
    scales = node.inputs[1]
    values = edit.const(scales)
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if edit.attr(node, "mode", "nearest") == "nearest":
        shrinks = values is not None and bool((values < 1).any())
        node.attrs["nearest_mode"] = "ceil" if shrinks else "floor"
    e.replace_input(node, 1, e.constant(f"{node.outputs[0].name}_roi", np.array([], dtype=np.float32)))
    e.replace_input(node, 2, scales)


def _softmax(e: edit.Edit, node: gs.Node, found: ShapeValues) -> None:
    """Up to opset 12 the axes from `axis` on are taken as one. That shows where two of them have several elements."""
    x, y = node.inputs[0], node.outputs[0]
    axis, dims = node.attrs.pop("axis", 1), found.dims(x)
    if dims is not None and all(size == 1 for size in dims[axis % max(len(dims), 1) + 1 :]):
        node.attrs["axis"] = axis
        return
    shape = e.fresh(f"{y.name}_shape", np.dtype(np.int64), [None if dims is None else len(dims)])
    flat, soft = (e.fresh(f"{y.name}_{what}", x.dtype, [None, None]) for what in ("flat", "soft"))
    e.add("Shape", [x], [shape])
    e.add("Flatten", [x], [flat], {"axis": axis})
    e.replace_input(node, 0, flat)
    e.replace_output(node, 0, soft)
    node.attrs["axis"] = -1
    e.add("Reshape", [soft, shape], [y], name=node.name)


def _split_parts(_e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    if edit.inp(node, 1) is None:
        node.attrs["num_outputs"] = len(node.outputs)


def _grid_sample(_e: edit.Edit, node: gs.Node, _found: ShapeValues) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = edit.attr(node, "mode", "bilinear")
    node.attrs["mode"] = names.get(mode, mode)


# Not listed for 22, as onnxruntime 1.31 runs them only as they were before: GlobalLpPool MaxRoiPool Multinomial
# RandomNormal RandomNormalLike RandomUniform RandomUniformLike RoiAlign.
_COMPATIBLE: Final = """
    8: Max MaxPool Mean Min Sum
    9: Cast Constant Flatten Gemm Greater Less MatMul PRelu
    10: AveragePool Dropout MaxPool
    11: ArgMax ArgMin AveragePool Compress Concat Constant Conv ConvTranspose DepthToSpace Equal Flatten Gather Gemm
        Hardmax If LogSoftmax Loop LpPool MaxPool MaxUnpool NonMaxSuppression OneHot ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Scan Slice Softmax Split
        Squeeze TopK Unsqueeze
    12: ArgMax ArgMin Clip Constant GatherND Max MaxPool Min Pow ReduceMax ReduceMin
    13: Abs Add ArgMax ArgMin Cast Ceil Clip Concat Constant DepthToSpace DequantizeLinear Div Dropout Equal Erf Exp
        Expand Flatten Floor Gather GatherElements GatherND Gemm Greater Identity If IsNaN LRN Less Log Loop MatMul
        Max Mean Min Mod Mul Neg NegativeLogLikelihoodLoss NonZero Pad Pow QuantizeLinear Reciprocal ReduceL1
        ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Relu Reshape
        Resize ScatterElements ScatterND Shape Sigmoid Sign Size Slice SoftmaxCrossEntropyLoss SpaceToDepth Sqrt Sub
        Sum Tanh Tile Transpose
    14: Add BatchNormalization CumSum Div GRU Identity LSTM Mul RNN Relu Reshape Sub
    15: BatchNormalization Pow Shape
    16: GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan ScatterElements ScatterND Where
    18: LpPool OptionalGetElement OptionalHasElement Pad Resize ScatterElements ScatterND
    19: AveragePool Cast CastLike Constant DequantizeLinear Equal Identity If Loop Pad QuantizeLinear Reshape Resize
        Scan Shape Size
    20: ConstantOfShape IsInf IsNaN ReduceMax ReduceMin
    21: Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QLinearMatMul
        QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze
    22: Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli Conv ConvTranspose Cos Cosh DeformConv Det Dropout Elu
        EyeLike GRU GlobalAveragePool GlobalMaxPool GridSample HardSigmoid HardSwish InstanceNormalization LSTM
        LpNormalization LpPool MaxPool MaxUnpool Mish NegativeLogLikelihoodLoss RNN Round Selu Sin Sinh Softplus
        Softsign Tan ThresholdedRelu
    23: Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear Reshape
        Scan Shape Size Squeeze Transpose Unsqueeze
    24: Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear Reshape
        Scan Shape Size SplitToSequence Squeeze TopK Transpose Unsqueeze
    25: Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear Reshape
        Scan Shape Size Squeeze Transpose Unsqueeze
"""

_AXES_TO_INPUT_18: Final = """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSumSquare"""

_ADAPTED: Final[dict[tuple[str, int], Step]] = {
    ("BatchNormalization", 9): _drop("spatial"),
    ("Upsample", 9): _upsample_scales,
    ("Upsample", 10): _renamed("Resize"),
    ("Slice", 10): _slice,
    ("TopK", 10): _top_k,
    ("Clip", 11): _clip,
    ("Pad", 11): _pad,
    ("Resize", 11): _resize,
    ("Scatter", 11): _renamed("ScatterElements"),
    ("Dropout", 12): _dropout,
    ("Softmax", 13): _softmax,
    ("LogSoftmax", 13): _softmax,
    ("Hardmax", 13): _softmax,
    ("Split", 13): _attribute_to_input("split", 1),
    ("Squeeze", 13): _attribute_to_input("axes", 1),
    ("Unsqueeze", 13): _attribute_to_input("axes", 1),
    ("ReduceSum", 13): _attribute_to_input("axes", 1),
    ("RoiAlign", 16): _default("coordinate_transformation_mode", "output_half_pixel"),
    **{(op, 18): _attribute_to_input("axes", 1) for op in _AXES_TO_INPUT_18.split()},
    ("Split", 18): _split_parts,
    ("GridSample", 20): _grid_sample,
}


def _compatible(table: str) -> dict[tuple[str, int], Step]:
    found: dict[tuple[str, int], Step] = {}
    version = 0
    for word in table.split():
        if word.endswith(":"):
            version = int(word[:-1])
        else:
            found[word, version] = same
    return found


STEPS: Final[dict[tuple[str, int], Step]] = {**_compatible(_COMPATIBLE), **_ADAPTED}
"""The rewrite for each operator and version; a version that is not listed is a change that lpcc cannot follow."""


def _check_batch_norm(node: gs.Node) -> str:
    if not edit.attr(node, "spatial", 1):
        return "batch norm over single elements (`spatial=0`) is gone from opset 9 on"
    return "batch norm in training mode changed in opset 14" if len(node.outputs) > 1 else ""


def _check_dropout(node: gs.Node) -> str:
    return "the mask of Dropout changed its type in opset 10" if edit.out(node, 1) is not None else ""


def _check_typed(node: gs.Node) -> str:
    return "the type of its data is not known" if node.inputs[0].dtype is None else ""


def _check_resize(node: gs.Node) -> str:
    scales = edit.attr(node, "scales") if "scales" in node.attrs else edit.const(edit.inp(node, 1))
    if edit.attr(node, "mode", "nearest") != "nearest" or edit.op(node) == "Upsample":
        return ""
    if scales is None or (any(scale < 1 for scale in scales) and any(scale > 1 for scale in scales)):
        return "its scales are not known, or grow one axis and shrink another"
    return ""


CHECKS: Final[dict[str, tuple[int, Check]]] = {
    "BatchNormalization": (14, _check_batch_norm),
    "Dropout": (10, _check_dropout),
    "Clip": (11, _check_typed),
    "Pad": (11, _check_typed),
    "Resize": (11, _check_resize),
    "Upsample": (11, _check_resize),
}
"""Operators that cannot always be rewritten: from which version on that does not matter, and the check."""
