"""How operators carry sizes from their inputs to their first output, by operator. See `lpcc.analysis.shape_values`.

A rule gives a size for each dimension, None for one that it does not know, and None in all where it does not even
know the rank. What it says must hold for every input for which the node runs at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import sizes

if TYPE_CHECKING:
    from lpcc.analysis.shape_values import ShapeValues
    from lpcc.analysis.sizes import Size

_BEYOND = 2**31 - 1  # how exporters say "to the end"

Rule = Callable[[gs.Node, "ShapeValues", int], "Sequence[int | Size | None] | None"]


def ints(node: gs.Node, found: ShapeValues, name: str, index: int) -> list[int] | None:
    """Integers of attribute `name` or, in later opsets, of input `index` of a node; None if absent or unknown."""
    if name in node.attrs:
        value = node.attrs[name]
        return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    numbers = found.numbers(edit.inp(node, index))
    return None if numbers is None else [int(number) for number in numbers.reshape(-1)]


def absent(node: gs.Node, name: str, index: int) -> bool:
    """Whether a node has neither attribute `name` nor input `index`."""
    return name not in node.attrs and edit.inp(node, index) is None


def _same(node: gs.Node, found: ShapeValues, _: int) -> Any:
    return found.dims(edit.inp(node, 0))


def _broadcast(node: gs.Node, found: ShapeValues, _: int) -> Any:
    shapes = [found.dims(tensor) for tensor in node.inputs]
    return broadcast(shapes)


def broadcast(shapes: Sequence[Sequence[int | Size] | None]) -> list[int | Size | None] | None:
    """Shape that shapes broadcast to; None where one of the ranks is unknown."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(map(len, known))
    result: list[int | Size | None] = []
    for axis in range(rank):
        aligned = {shape[axis - rank] for shape in known if len(shape) >= rank - axis} - {1}
        numbers = [size for size in aligned if isinstance(size, int)]
        if not aligned:
            result.append(1)
        elif numbers:
            result.append(numbers[0])  # an unknown beside it is equal or 1
        else:
            result.append(aligned.pop() if len(aligned) == 1 else None)
    return result


def _window(node: gs.Node, found: ShapeValues, _: int) -> Any:
    """Convolutions and pools: the batch stays, spatial sizes follow from stride and padding."""
    x = found.dims(edit.inp(node, 0))
    if x is None or len(x) < 3:
        return None
    spatial = len(x) - 2
    if edit.op(node) == "Conv":
        w = found.dims(edit.inp(node, 1))
        channels, kernel = (None, None) if w is None else (w[0], [k for k in w[2:] if isinstance(k, int)])
    else:
        channels, kernel = x[1], list(edit.attr(node, "kernel_shape", []))
    result = [x[0], channels, *[None] * spatial]
    auto = edit.attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if kernel is None or len(kernel) != spatial or auto or edit.attr(node, "ceil_mode", 0):
        return result
    strides = edit.attr(node, "strides", [1] * spatial)
    dilations = edit.attr(node, "dilations", [1] * spatial)
    pads = [0] * 2 * spatial
    if edit.attr(node, "auto_pad", "NOTSET") == "NOTSET":
        pads = edit.attr(node, "pads", pads)
    for axis in range(spatial):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        room = sizes.add(x[axis + 2], pads[axis] + pads[axis + spatial] - reach)
        if room is not None:
            result[axis + 2] = sizes.add(found.quotient(room, strides[axis]), 1)
    return result


def _global_pool(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x = found.dims(edit.inp(node, 0))
    return None if x is None else [*x[:2], *[1] * (len(x) - 2)]


def _transpose(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x = found.dims(edit.inp(node, 0))
    if x is None:
        return None
    perm = edit.attr(node, "perm", list(reversed(range(len(x)))))
    return [x[axis] for axis in perm]


def _concat(node: gs.Node, found: ShapeValues, _: int) -> Any:
    shapes = [found.dims(tensor) for tensor in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    axis = edit.attr(node, "axis", 1) % len(known[0])
    result: list[int | Size | None] = list(known[0])
    total: int | Size | None = 0
    for shape in known:
        total = sizes.add(total, shape[axis])
    result[axis] = total
    return result


def _flatten(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x = found.dims(edit.inp(node, 0))
    if x is None:
        return None
    axis = edit.attr(node, "axis", 1)
    axis = axis + len(x) if axis < 0 else axis
    return [sizes.product(x[:axis]), sizes.product(x[axis:])]


def _reshape(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x = found.dims(edit.inp(node, 0))
    target = found.value(edit.inp(node, 1))
    if target is None or target.ndim != 1:
        return None
    wanted = list(target)
    copies = not edit.attr(node, "allowzero", 0)
    if x is not None and copies:
        wanted = [x[axis] if size == 0 and axis < len(x) else size for axis, size in enumerate(wanted)]
    elif copies:
        wanted = [None if size == 0 else size for size in wanted]
    inferred = [axis for axis, size in enumerate(wanted) if size == -1]
    doubtful = any(size is not None and not isinstance(size, int) and not size.is_nonnegative for size in wanted)
    if doubtful or len(inferred) > 1:
        return [None] * len(wanted)
    if inferred:
        rest = sizes.product(size for axis, size in enumerate(wanted) if axis != inferred[0])
        total = None if x is None else sizes.product(x)
        wanted[inferred[0]] = sizes.divide(total, rest)
    return wanted


def _unsqueeze(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, axes = found.dims(edit.inp(node, 0)), ints(node, found, "axes", 1)
    if x is None or axes is None:
        return None
    rank = len(x) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(x)
    return [1 if axis in new else next(rest) for axis in range(rank)]


def _squeeze(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, axes = found.dims(edit.inp(node, 0)), ints(node, found, "axes", 1)
    if x is None or not axes:  # without axes all of size 1 go, and onnxruntime takes no axes for none given
        return None
    gone = {axis % len(x) for axis in axes}
    return [size for axis, size in enumerate(x) if axis not in gone]


def _gemm(node: gs.Node, found: ShapeValues, _: int) -> Any:
    a, b = found.dims(edit.inp(node, 0)), found.dims(edit.inp(node, 1))
    rows = None if a is None or len(a) != 2 else a[1 if edit.attr(node, "transA", 0) else 0]
    columns = None if b is None or len(b) != 2 else b[0 if edit.attr(node, "transB", 0) else 1]
    return [rows, columns]


def _matmul(node: gs.Node, found: ShapeValues, _: int) -> Any:
    a, b = found.dims(edit.inp(node, 0)), found.dims(edit.inp(node, 1))
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    batch = broadcast([a[:-2], b[:-2]])
    return None if batch is None else [*batch, a[-2], b[-1]]


def _reduce(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, axes = found.dims(edit.inp(node, 0)), ints(node, found, "axes", 1)
    if x is None or (axes is None and not absent(node, "axes", 1)):
        return None
    if not axes and edit.attr(node, "noop_with_empty_axes", 0):
        return x
    gone = {axis % len(x) for axis in axes} if axes else set(range(len(x)))
    if edit.attr(node, "keepdims", 1):
        return [1 if axis in gone else size for axis, size in enumerate(x)]
    return [size for axis, size in enumerate(x) if axis not in gone]


def _slice(node: gs.Node, found: ShapeValues, _: int) -> Any:
    """Sizes of the axes that are not cut: not named, or taken from 0 to an end beyond all sizes."""
    x, axes = found.dims(edit.inp(node, 0)), ints(node, found, "axes", 3)
    starts, ends = ints(node, found, "starts", 1), ints(node, found, "ends", 2)
    if x is None:
        return None
    if axes is None and starts is not None and absent(node, "axes", 3):
        axes = list(range(len(starts)))
    if axes is None:
        return [None] * len(x)
    steps = [1] * len(axes) if absent(node, "steps", 4) else ints(node, found, "steps", 4)
    result: list[int | Size | None] = list(x)
    for at, axis in enumerate(axes):
        known = starts is not None and ends is not None and steps is not None
        if not (known and starts[at] == 0 and ends[at] >= _BEYOND and steps[at] == 1):  # type: ignore[index]
            result[axis % len(x)] = None
    return result


def _pad(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, pads = found.dims(edit.inp(node, 0)), ints(node, found, "pads", 1)
    if x is None:
        return None
    if pads is None or edit.inp(node, 3) is not None or len(pads) != 2 * len(x):
        return [None] * len(x)
    return [sizes.add(size, pads[axis] + pads[axis + len(x)]) for axis, size in enumerate(x)]


def _split(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x = found.dims(edit.inp(node, 0))
    if x is None:
        return None
    axis = edit.attr(node, "axis", 0) % len(x)
    return [None if at == axis else size for at, size in enumerate(x)]


def _gather(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, indices = found.dims(edit.inp(node, 0)), found.dims(edit.inp(node, 1))
    if x is None or indices is None or not x:
        return None
    axis = edit.attr(node, "axis", 0) % len(x)
    return [*x[:axis], *indices, *x[axis + 1 :]]


def _expand(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, target = found.dims(edit.inp(node, 0)), found.value(edit.inp(node, 1))
    if target is None or any(size is None for size in target.reshape(-1)):
        return None
    return broadcast([x, tuple(target.reshape(-1))])


def _resize(node: gs.Node, found: ShapeValues, opset: int) -> Any:
    x = found.dims(edit.inp(node, 0))
    if x is None or "axes" in node.attrs or edit.attr(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    target = found.value(edit.inp(node, 3))
    stretches = edit.attr(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if target is not None and target.size == len(x) and stretches:
        return list(target)
    position = 2 if edit.op(node) == "Resize" and opset >= 11 else 1
    scales = edit.attr(node, "scales", None) if opset < 9 else edit.const(edit.inp(node, position))
    if scales is None or len(scales) != len(x):
        return [None] * len(x)
    return [sizes.multiply(size, int(s)) if float(s).is_integer() else None for size, s in zip(x, scales, strict=True)]


def _shape(node: gs.Node, found: ShapeValues, _: int) -> Any:
    rank = found.rank(edit.inp(node, 0))
    if rank is None:
        return [None]
    return [len(range(rank)[slice(edit.attr(node, "start", 0), edit.attr(node, "end", None))])]


def _from_value(node: gs.Node, found: ShapeValues, _: int) -> Any:
    value = found.value(edit.inp(node, 0))
    return None if value is None else list(value.reshape(-1))


def _blocks(node: gs.Node, found: ShapeValues, _: int) -> Any:
    x, block = found.dims(edit.inp(node, 0)), edit.attr(node, "blocksize", 1)
    if x is None or len(x) != 4:
        return None
    if edit.op(node) == "DepthToSpace":
        return [x[0], found.quotient(x[1], block * block), *[sizes.multiply(size, block) for size in x[2:]]]
    return [x[0], sizes.multiply(x[1], block * block), *[found.quotient(size, block) for size in x[2:]]]


_SAME = """Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Cast Ceil Celu Clip Cos Cosh CumSum
    DequantizeLinear Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Hardmax Identity InstanceNormalization
    IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization Mish Neg Not PRelu QuantizeLinear
    Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh
    ThresholdedRelu Trilu ScatterElements ScatterND GroupNormalization"""

_BROADCAST = """Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean
    Min Mod Mul Or Pow Sub Sum Where Xor"""

_REDUCE = """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare"""

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(_BROADCAST.split(), _broadcast),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool"), _window),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Concat": _concat,
    "ConstantOfShape": _from_value,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What each operator says of its first output."""
