"""Channels last: the layout of onnxruntime's integer convolutions, and the changes of layout around them.

Kernels that do not care about the order pass the layout on; before any other one, the tensor is brought back. These
changes are kernels that no node of the graph stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.geometry import Geometry
from lpcc.analysis.operand import Operand
from lpcc.analysis.shapes import Shapes

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

_CONVS = frozenset({"conv", "pointwise", "depthwise"})
_INDIFFERENT = frozenset({"elementwise", "activation", "concat", "copy", "resize", "quantize", "dequantize"})
_TO_LAST, _FROM_LAST = [0, 2, 3, 1], [0, 3, 1, 2]


def with_layout(
    kernels: Sequence[Kernel], outputs: Sequence[gs.Tensor], shapes: Shapes, *, through_views: bool = False
) -> Iterator[Kernel]:
    """The kernels and, before those that need them, the changes of layout as kernels of kind ``transpose``.

    A change bears the node of the kernel that it is made for. A tensor is brought into a layout once, for all its
    readers; the network's `outputs` are brought back. A layout is passed on by what reads several such tensors, by
    pools, and by any indifferent kernel from which the way leads to another one that needs it. A Transpose of the graph
    that does the same anyway touches no data. With `through_views`, one right behind a Reshape does both at once.
    """
    leading = _leading(kernels, shapes)
    transposed = {id(k.inputs[0].tensor) for k in kernels if k.op == "Transpose" and k.inputs}
    uses = Counter(id(o.tensor) for kernel in kernels for o in kernel.inputs)
    uses.update(id(tensor) for tensor in outputs)
    just_made = {id(k.outputs[0].tensor) for k in kernels if k.op == "Transpose" and uses[id(k.outputs[0].tensor)] == 1}
    last: set[int] = set()  # ids of tensors that are there channels last
    reordered: set[int] = set()  # ids of views of such
    makers: dict[int, Kernel] = {}
    both: set[int] = set()  # those that were converted, and so are there in either
    for kernel in kernels:
        ours = [o for o in kernel.inputs if id(o.tensor) in last]
        wanted = _wanted(kernel, shapes, len(ours), leading)
        order = edit.attr(kernel.node, "perm", []) if kernel.op == "Transpose" else []
        if kernel.nodes and ((order == _TO_LAST and ours) or (order == _FROM_LAST and wanted)):
            kernel = replace(kernel, kind="view")
        elif through_views and ours and kernel.kind == "view" and id(kernel.outputs[0].tensor) in transposed:
            reordered.add(id(kernel.outputs[0].tensor))
        elif order and id(kernel.inputs[0].tensor) in reordered:
            kernel = replace(kernel, geometry=Geometry(groups=kernel.elements, kh=2))
        elif not order:
            for operand in kernel.inputs:
                key = id(operand.tensor)
                moved = wanted and key in just_made  # a Transpose of the graph may as well write it so
                image = len(shapes.of(operand.tensor) or ()) == 4
                if (key in last) != wanted and key not in both and image and not moved:
                    both.add(key)
                    yield _change(kernel, operand, shapes)
                    maker = makers.get(key)
                    if maker is not None and maker.kind == "dequantize":
                        yield from _round_trip(maker, operand)
        yield replace(kernel, blocked=True) if wanted else kernel
        if wanted:
            last.update(id(operand.tensor) for operand in kernel.outputs)
            makers.update((id(operand.tensor), kernel) for operand in kernel.outputs)
    for tensor in outputs:
        if id(tensor) in makers and id(tensor) not in both:
            kernel = makers[id(tensor)]
            yield _change(kernel, next(o for o in kernel.outputs if o.tensor is tensor), shapes)


def _leading(kernels: Sequence[Kernel], shapes: Shapes) -> set[int]:
    """Ids of tensors from which the way leads, through indifferent kernels, to one that needs channels last."""
    found: set[int] = set()
    for kernel in reversed(kernels):
        order = edit.attr(kernel.node, "perm", []) if kernel.op == "Transpose" else []
        needs = _is_conv(kernel) or order == _TO_LAST
        passes = _is_indifferent(kernel, shapes) and any(id(o.tensor) in found for o in kernel.outputs)
        if needs or passes:
            found.update(id(o.tensor) for o in kernel.inputs)
    return found


def _wanted(kernel: Kernel, shapes: Shapes, read: int, leading: set[int]) -> bool:
    """Whether a kernel, of whose inputs `read` are there channels last, works so."""
    if _is_conv(kernel):
        return len(shapes.of(kernel.outputs[0].tensor) or ()) == 4
    leads = any(id(o.tensor) in leading for o in kernel.outputs)
    if kernel.op == "Transpose":
        return leads and edit.attr(kernel.node, "perm", []) == _FROM_LAST
    if read == 0 or read < len(kernel.inputs) or not _is_indifferent(kernel, shapes):
        return False
    return read > 1 or kernel.kind == "pool" or leads


def _is_conv(kernel: Kernel) -> bool:
    return kernel.kind in _CONVS and kernel.dtype == "int8"


def _is_indifferent(kernel: Kernel, shapes: Shapes) -> bool:
    if not kernel.outputs or len(shapes.of(kernel.outputs[0].tensor) or ()) != 4:
        return False
    if kernel.kind == "pool":
        return kernel.dtype == "int8"
    return kernel.kind in _INDIFFERENT and kernel.op != "Gather"


def view(kernel: Kernel, operand: Operand) -> Kernel:
    """A Reshape that the runtime puts beside a kernel; no data is touched."""
    return replace(
        kernel,
        op="Reshape",
        kind="view",
        nodes=(),
        inputs=(operand,),
        outputs=(operand,),
        weight_bytes=0,
        macs=0,
        channels=0,
        elements=0,
    )


def _round_trip(dequantize: Kernel, operand: Operand) -> Iterator[Kernel]:
    """A Q/DQ pair that onnxruntime leaves behind where it has moved a change of layout behind a DequantizeLinear."""
    small = dequantize.inputs[0].nbytes
    held = replace(operand, nbytes=small)
    yield replace(dequantize, op="QuantizeLinear", kind="quantize", nodes=(), inputs=(operand,), outputs=(held,))
    yield replace(dequantize, nodes=(), inputs=(held,), outputs=(operand,))


def _change(kernel: Kernel, operand: Operand, shapes: Shapes) -> Kernel:
    count = shapes.elements(operand.tensor)
    moved = view(kernel, operand)
    return replace(moved, op="Transpose", kind="transpose", elements=count, geometry=Geometry(groups=count))
