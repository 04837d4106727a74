"""Loop bounds of a kernel: what its speed depends on besides how much it computes."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.macs import CONVS, PRODUCTS, RECURRENT
from lpcc.analysis.shapes import Shapes, constant_of

_TAPS = {"linear": 2, "bilinear": 2, "cubic": 4}  # pixels that are mixed, along each axis
_BROADCAST = frozenset(
    "Add Sub Mul Div Max Min Pow Mod Where And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual PRelu".split()  # noqa: SIM905
)
_POOLS = ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")
_COPIES = frozenset(["Slice", "Pad", "Split", "Gather", "Expand", "Tile", "Concat"])
_RESHAPES = frozenset(["Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"])
_ROWS = frozenset(
    "Softmax LogSoftmax QLinearSoftmax ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "  # noqa: SIM905
    "ReduceLogSum ReduceSumSquare ReduceLogSumExp ArgMax ArgMin QLinearReduceMean".split()
)


@dataclass(frozen=True)
class Geometry:
    """Loop bounds of a kernel.

    A convolution has `batch` images of `groups` groups with `cin` input and `cout` output channels *each*, a window of
    `kh` x `kw` with strides `sh`, `sw` and dilations `dh`, `dw`, inputs of `ih` x `iw` and outputs of `oh` x `ow`; one
    over a line has height 1, one over a volume has its leading axes in the height. A depthwise convolution has as many
    groups as channels, and so has pooling, with `cin` = `cout` = 1. A product of M x K and K x N matrices is a 1x1
    convolution with `oh` = M, `cin` = K, `cout` = N; a recurrent layer with one group for each direction is such a
    product at each of `oh` steps. A change of the order of axes moves `groups` runs of `cout` elements and takes `kh`
    axes out of their order. Other kernels have the channels and the size of what they write; one that resizes mixes
    `kh` x `kw` pixels into each, and where operands differ in shape, `groups` counts the runs of elements within which
    they do not. What copies parts of its inputs (Slice, Pad, Concat ...) writes `groups` runs. A softmax or a reduction
    goes over `groups` rows of `cin` elements that lie `cout` elements apart.
    """

    batch: int = 1
    groups: int = 1
    cin: int = 1
    cout: int = 1
    kh: int = 1
    kw: int = 1
    sh: int = 1
    sw: int = 1
    dh: int = 1
    dw: int = 1
    ih: int = 1
    iw: int = 1
    oh: int = 1
    ow: int = 1

    @property
    def is_empty(self) -> bool:
        """Whether a tensor has a dimension of 0, so that there is nothing to compute."""
        return 0 in astuple(self)

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return self.kh * self.kw

    @property
    def depth(self) -> int:
        """Products summed up for one output element."""
        return self.cin * self.taps

    @property
    def pixels(self) -> int:
        """Positions of one output image."""
        return self.oh * self.ow

    @property
    def rows(self) -> int:
        """Positions of all output images: rows of the matrix product that a convolution is."""
        return self.batch * self.pixels


def geometry(node: gs.Node, shapes: Shapes) -> Geometry:
    """Loop bounds of a node; 1 where a shape that it takes is unknown."""
    op = edit.op(node)
    if op in CONVS:
        return _conv(node, op, shapes)
    if op in PRODUCTS:
        return _product(node, op, shapes)
    first, out = shapes.of(edit.inp(node, 0)), shapes.of(edit.out(node))
    if op.split("::")[-1] in _POOLS:
        return _window(node, op, first, out, edit.attr(node, "kernel_shape", []))
    if op in RECURRENT:
        weights, memory = shapes.of(edit.inp(node, 1)), shapes.of(edit.inp(node, 2))
        if not (first and weights and memory):
            return Geometry()
        return Geometry(first[1], weights[0], weights[-1] + memory[-1], weights[1], ih=first[0], oh=first[0])
    if op == "Transpose":
        return _moves(node, first, out)
    if op in ("Resize", "Upsample"):
        taps = _TAPS.get(edit.attr(node, "mode", "nearest"), 1)
        return replace(_plain(first, out), kh=taps, kw=taps)
    if op in _COPIES and first and out:
        return replace(_plain(first, out), groups=_pieces(node, op, first, out))
    if op.split("::")[-1] in _ROWS and first and out:
        return _rows(node, first, out)
    operands = [shape for t in node.inputs if t.name and (shape := shapes.of(t)) is not None]
    if op in _BROADCAST and out and len(operands) == len(node.inputs):
        return replace(_plain(first, out), groups=_runs(operands, out))
    return _plain(first, out)


def _conv(node: gs.Node, op: str, shapes: Shapes) -> Geometry:
    weight = shapes.of(edit.inp(node, CONVS[op]))
    groups = int(edit.attr(node, "group", 1))
    if weight is None or len(weight) < 3 or groups < 1:
        return Geometry()
    cout, cin = weight[0] // groups, weight[1]
    if op == "ConvTranspose":  # weights are [inputs, outputs / groups, window]
        cout, cin = weight[1], weight[0] // groups
    first, out = shapes.of(edit.inp(node, 0)), shapes.of(edit.out(node))
    found = _window(node, op, first, out, list(weight[2:]))
    return Geometry(**{**vars(found), "groups": groups, "cin": cin, "cout": cout})


def _window(
    node: gs.Node, op: str, first: tuple[int, ...] | None, out: tuple[int, ...] | None, kernel: list[int]
) -> Geometry:
    """A window that moves over images; one channel a group."""
    if first is None or out is None or len(out) < 3 or len(out) != len(first):
        return Geometry()
    last = op.split("::")[-1].startswith("Nhwc") or bool(edit.attr(node, "channels_last", 0))
    channels = out[-1] if last else out[1]
    ih, iw = _plane(first[1:-1] if last else first[2:])
    oh, ow = _plane(out[1:-1] if last else out[2:])
    rank = len(out) - 2
    kh, kw = _plane(kernel or [1] * rank)
    sh, sw = _plane(edit.attr(node, "strides", [1] * rank))
    dh, dw = _plane(edit.attr(node, "dilations", [1] * rank))
    return Geometry(out[0], channels, 1, 1, kh, kw, sh, sw, dh, dw, ih, iw, oh, ow)


def _product(node: gs.Node, op: str, shapes: Shapes) -> Geometry:
    first, out = shapes.of(edit.inp(node, 0)), shapes.of(edit.out(node))
    if not first or not out:
        return Geometry()
    inner = first[-2] if edit.attr(node, "transA", 0) and len(first) > 1 else first[-1]
    second = shapes.of(edit.inp(node, PRODUCTS[op])) or ()
    rows, lead = (out[-2] if len(out) > 1 else 1), prod(out[:-2])
    if len(second) <= 2:  # one matrix of weights for all: the runtime takes it as one tall product
        rows, lead = rows * lead, 1
    return Geometry(batch=lead, cin=inner, cout=out[-1], ih=rows, oh=rows)


def _plain(first: tuple[int, ...] | None, out: tuple[int, ...] | None) -> Geometry:
    """Channels and size of what a kernel writes, and the size of what it reads."""
    if not out:
        return Geometry()
    channels = out[1] if len(out) > 1 else out[0]
    ih, iw = _plane((first or ())[2:])
    oh, ow = _plane(out[2:])
    return Geometry(batch=out[0] if len(out) > 1 else 1, cin=channels, cout=channels, ih=ih, iw=iw, oh=oh, ow=ow)


def _moves(node: gs.Node, first: tuple[int, ...] | None, out: tuple[int, ...] | None) -> Geometry:
    """A change of the order of axes; axes of size 1 do not count, and those that stay side by side are one."""
    if not first or not out:
        return Geometry()
    order = [axis for axis in edit.attr(node, "perm", list(reversed(range(len(first))))) if first[axis] > 1]
    heads = [axis for before, axis in zip([-2, *order], order, strict=False) if not _follows(before, axis, first)]
    last = order[len(order) - 1 - order[::-1].index(heads[-1]) :] if order else []
    stays = bool(order) and order[-1] == max(order)
    run = prod(first[axis] for axis in last) if stays else 1
    moved = len(heads) - _longest_rise(heads)
    return Geometry(groups=prod(out) // max(run, 1), cout=run, kh=max(moved, 1))


def _follows(before: int, axis: int, shape: tuple[int, ...]) -> bool:
    """Whether an axis stands right behind another one, but for axes of size 1."""
    return 0 <= before < axis and prod(shape[before + 1 : axis]) == 1


def _longest_rise(values: list[int]) -> int:
    """Length of the longest rising subsequence."""
    best: list[int] = []
    for index, value in enumerate(values):
        best.append(1 + max((best[i] for i in range(index) if values[i] < value), default=0))
    return max(best, default=0)


def _runs(operands: list[tuple[int, ...]], out: tuple[int, ...]) -> int:
    """Runs of elements, along the last axes, in which no operand's shape begins or ends to differ from the result's."""
    run = 1
    behind = None
    for offset, size in enumerate(reversed(out), 1):
        if size == 1:
            continue
        same = tuple(offset <= len(shape) and shape[-offset] == size for shape in operands)
        if behind is not None and same != behind:
            break
        behind, run = same, run * size
    return prod(out) // max(run, 1)


def _pieces(node: gs.Node, op: str, first: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Runs of elements in which parts of the input are copied: those behind the last axis that changes, and its own."""
    if op == "Gather":
        axis = int(edit.attr(node, "axis", 0)) % max(len(first), 1)
        return max(prod(out) // max(prod(first[axis + 1 :]), 1), 1)
    if len(first) != len(out):
        return max(prod(out) // max(out[-1], 1), 1)
    changed = [axis for axis, (old, new) in enumerate(zip(first, out, strict=True)) if old != new]
    if not changed:
        return 1
    last = changed[-1]
    steps = _numbers(edit.inp(node, 4)) if op == "Slice" else None
    whole = op in ("Split", "Pad", "Concat") or (op == "Slice" and (steps is None or bool((steps == 1).all())))
    return prod(out[: last if whole else last + 1])


def _numbers(tensor: gs.Tensor | None) -> np.ndarray | None:
    """The numbers of a tensor as far as they are constants, maybe in another shape or type, as exporters spell them."""
    while tensor is not None:
        found = constant_of(tensor)
        if found is not None:
            return np.asarray(found.values).ravel()
        node = tensor.inputs[0] if tensor.inputs else None
        if node is not None and edit.op(node) == "Constant":
            value = next(iter(node.attrs.values()), None)
            return np.atleast_1d(value) if isinstance(value, (int, float, list)) else None
        tensor = edit.inp(node, 0) if node is not None and edit.op(node) in _RESHAPES else None
    return None


def _rows(node: gs.Node, first: tuple[int, ...], out: tuple[int, ...]) -> Geometry:
    """Rows that are reduced, or normalised, each for itself."""
    axes = edit.attr(node, "axes", None)
    if axes is None and len(node.inputs) > 1 and "Reduce" in edit.op(node):
        axes = _numbers(node.inputs[1])
    if axes is None:
        softmax = "Softmax" in edit.op(node)
        axes = (
            [edit.attr(node, "axis", -1 if softmax else 0)] if softmax or "Arg" in edit.op(node) else range(len(first))
        )
    found = sorted({int(axis) % max(len(first), 1) for axis in axes})
    length = prod(first[axis] for axis in found)
    apart = prod(first[found[-1] + 1 :]) if found else 1
    return Geometry(groups=max(prod(first) // max(length, 1), 1), cin=length, cout=apart, oh=prod(out))


def _plane(dims: tuple[int, ...] | list[int]) -> tuple[int, int]:
    """Height and width of any number of axes."""
    return (prod(dims[:-1]), dims[-1]) if dims else (1, 1)
