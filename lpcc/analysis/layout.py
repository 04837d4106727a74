"""Where the runtime changes the layout of activations: kernels that no node of the graph stands for.

onnxruntime's integer convolutions work channels last; on x86 its float ones work on blocks of channels. Kernels that
do not care about the order pass such a layout on; before any other one, the tensor is brought back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shapes import Shapes

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel, Operand

_CONVS = frozenset({"conv", "pointwise", "depthwise"})
_INTEGER = frozenset({"elementwise", "activation", "pool", "concat", "copy", "quantize", "dequantize"})
_BLOCKED = frozenset(
    "Add Sum Mul Concat Relu LeakyRelu Sigmoid Tanh MaxPool AveragePool GlobalMaxPool GlobalAveragePool".split()  # noqa: SIM905
)
_BLOCK = 16  # channels


def with_layout(
    kernels: Sequence[Kernel], outputs: Sequence[gs.Tensor], shapes: Shapes, *, blocked_floats: bool
) -> Iterator[Kernel]:
    """The kernels and, before those that need them, the changes of layout as kernels of kind ``transpose``.

    `blocked_floats` says whether float convolutions work on blocks of channels, as they do on x86. A change bears the
    node of the kernel that it is made for. A tensor is brought into a layout once, for all its readers; the network's
    `outputs` are brought back.
    """
    special: dict[int, str] = {}  # ids of tensors that are there in another layout than the graph's
    makers: dict[int, Kernel] = {}
    returned = {id(tensor) for tensor in outputs}
    both: set[int] = set()  # those that were converted, and so are there in either
    for kernel in kernels:
        if kernel.kind == "view" and not any(id(o.tensor) in special for o in kernel.inputs):
            yield kernel
            continue
        wanted = _wanted(kernel, shapes, special, blocked_floats=blocked_floats)
        if kernel.kind == "dequantize" and any(id(operand.tensor) in returned for operand in kernel.outputs):
            wanted = ""  # brought back while it is small
        for operand in kernel.inputs:
            key = id(operand.tensor)
            if special.get(key, "") != wanted and key not in both and _matters(kernel, operand, shapes, wanted):
                both.add(key)
                yield _change(kernel, operand, shapes)
        yield kernel
        if wanted:
            special.update((id(operand.tensor), wanted) for operand in kernel.outputs)
            makers.update((id(operand.tensor), kernel) for operand in kernel.outputs)
    for tensor in outputs:
        if id(tensor) in makers and id(tensor) not in both:
            kernel = makers[id(tensor)]
            operand = next(o for o in kernel.outputs if o.tensor is tensor)
            if _matters(kernel, operand, shapes, ""):
                yield _change(kernel, operand, shapes)


def _wanted(kernel: Kernel, shapes: Shapes, special: dict[int, str], *, blocked_floats: bool) -> str:
    """The layout that a kernel works in; empty for the graph's own."""
    integer = kernel.dtype == "int8"
    if not kernel.outputs or len(shapes.of(kernel.outputs[0].tensor) or ()) != 4:
        return ""
    if kernel.kind in _CONVS:
        if integer:
            return "last"
        fixed = _is_fixed(kernel.node.inputs[1])
        return "blocked" if blocked_floats and fixed and kernel.channels >= _BLOCK else ""
    layouts = {special.get(id(operand.tensor), "") for operand in kernel.inputs}
    if len(layouts) != 1:
        return ""
    layout = layouts.pop()
    if layout == "last":
        return layout if kernel.kind in _INTEGER else ""
    op = edit.op(kernel.node)
    plain = op in _BLOCKED and not any(_is_fixed(tensor) for tensor in kernel.node.inputs)
    return layout if plain else ""


def _is_fixed(tensor: gs.Tensor) -> bool:
    """Whether a tensor is known when the runtime loads the model: only then does it reorder weights."""
    return isinstance(tensor, gs.Constant) or any(edit.op(maker) == "Constant" for maker in tensor.inputs)


def _matters(kernel: Kernel, operand: Operand, shapes: Shapes, wanted: str) -> bool:
    """Whether an operand must be in the layout: not if it has no room to differ, or is an image read as it is."""
    shape = shapes.of(operand.tensor) or ()
    if len(shape) != 4 or shape[2] * shape[3] == 1:
        return False
    return not (wanted == "blocked" and kernel.kind in _CONVS and shape[1] < _BLOCK)


def _change(kernel: Kernel, operand: Operand, shapes: Shapes) -> Kernel:
    return replace(
        kernel,
        kind="transpose",
        nodes=(),
        inputs=(operand,),
        outputs=(operand,),
        weight_bytes=0,
        macs=0,
        channels=0,
        elements=shapes.elements(operand.tensor),
    )
