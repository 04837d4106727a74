"""Loop bounds of a kernel: what its speed depends on besides how much it computes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.macs import CONVS, PRODUCTS
from lpcc.analysis.shapes import Shapes

_POOLS = ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")


@dataclass(frozen=True)
class Geometry:
    """Loop bounds of a kernel.

    A convolution has `batch` images of `groups` groups with `cin` input and `cout` output channels *each*, a window of
    `kh` x `kw` with strides `sh`, `sw` and dilations `dh`, `dw`, inputs of `ih` x `iw` and outputs of `oh` x `ow`; one
    over a line has height 1, one over a volume has its leading axes in the height. A depthwise convolution has as many
    groups as channels, and so has pooling, with `cin` = `cout` = 1. A product of M x K and K x N matrices is a 1x1
    convolution with `oh` = M, `cin` = K, `cout` = N. Other kernels have the channels and the size of what they write.
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


def _plane(dims: tuple[int, ...] | list[int]) -> tuple[int, int]:
    """Height and width of any number of axes."""
    return (prod(dims[:-1]), dims[-1]) if dims else (1, 1)
