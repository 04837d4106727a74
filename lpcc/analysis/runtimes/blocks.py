"""Blocks of channels (NCHWc), in which onnxruntime computes float convolutions on x86.

Convolutions and pools work on tensors whose channels are split into blocks of one vector register. What makes no
difference between channels stays in that layout; before everything else, and at the network's outputs, a tensor is
brought back. In the blocked layout a convolution also takes in the sum and the activation after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.geometry import Geometry
from lpcc.analysis.layout import view
from lpcc.analysis.runtimes.base import Facts
from lpcc.analysis.runtimes.sums import Stated, has_activation, has_sum, merged
from lpcc.analysis.shapes import Shapes

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel, Operand

_ALIGNED = 4  # channels must be a multiple of this where they are padded to a block
_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")
_TO_LAST = [0, 2, 3, 1]
_FROM_LAST = [0, 3, 1, 2]


@dataclass
class _Arg:
    """A tensor in blocks: where the kernel that makes it stands, its readers, its channels before padding.

    `dims` says of the batch, height and width which tensor's they are, and how often they were halved since.
    """

    place: int
    uses: int
    channels: int
    is_conv: bool
    dims: tuple[object, ...]


def in_blocks(kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts, block: int) -> tuple[list[Kernel], set[int]]:
    """The kernels with changes of layout, sums and activations fused, and the ids of those that work on blocks.

    A change of layout has no `nodes` and the operator ``ReorderInput`` or ``ReorderOutput``. Nested graphs are left as
    they are: their weights mostly lie outside of them, where onnxruntime does not reorder them.
    """
    run = _Blocks(kernels, graph, facts, block)
    return run.kernels(), run.blocked


class _Blocks:
    def __init__(self, kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts, block: int) -> None:
        self.blocked: set[int] = set()
        self._steps = kernels
        self._outputs = tuple(graph.outputs)
        self._stated = Stated.of(graph)
        self._facts = facts
        self._shapes = facts.shapes
        self._block = block
        self._out: list[Kernel | None] = []
        self._args: dict[int, _Arg] = {}
        self._back: set[int] = set()  # ids of tensors in blocks that have been brought back as well
        self._there: set[int] = set()  # ids of other tensors that have been brought into blocks as well
        self._uses = Counter(id(o.tensor) for kernel in kernels for o in kernel.inputs)
        self._uses.update(id(tensor) for tensor in self._outputs)
        self._makers = {id(o.tensor): kernel for kernel in kernels for o in kernel.outputs}

    def kernels(self) -> list[Kernel]:
        for kernel in self._steps:
            if kernel.inner or kernel.dtype != "float32" or not self._transform(kernel):
                self._plain(kernel)
        for tensor in self._outputs:
            if id(tensor) in self._args and id(tensor) not in self._back:
                arg = self._args[id(tensor)]
                maker = self._out[arg.place]
                if maker is not None:
                    operand = next(o for o in maker.outputs if o.tensor is tensor)
                    self._out.append(_reorder(maker, operand, self._shapes, "ReorderOutput"))
        found = [replace(k, blocked=True) if id(k) in self.blocked else k for k in self._out if k is not None]
        self.blocked = {id(kernel) for kernel in found if kernel.blocked}
        return found

    def _plain(self, kernel: Kernel) -> None:
        self._bring_back(kernel, kernel.inputs)
        self._out.append(kernel)

    def _bring_back(self, kernel: Kernel, operands: Iterable[Operand]) -> None:
        for operand in operands:
            key = id(operand.tensor)
            if key in self._args and key not in self._back:
                self._back.add(key)
                self._out.append(_reorder(kernel, operand, self._shapes, "ReorderOutput"))

    def _bring_there(self, kernel: Kernel) -> None:
        operand = kernel.inputs[0]
        key = id(operand.tensor)
        if key in self._args or key in self._there:
            return
        self._there.add(key)
        maker = self._makers.get(key)
        fused = maker is not None and self._uses[key] == 1 and _permutes(maker, _FROM_LAST) and bool(self._out)
        if fused and self._out[-1] is maker:  # the reordering reads channels last by itself
            self._out[-1] = _reorder(kernel, operand, self._shapes, "ReorderInput", maker)
            return
        self._out.append(_reorder(kernel, operand, self._shapes, "ReorderInput"))

    def _transform(self, kernel: Kernel) -> bool:
        """Append the kernel in blocks, or take it into the one before; False where it is neither."""
        op = kernel.op
        if op == "Conv":
            return self._conv(kernel)
        if op in ("MaxPool", "AveragePool"):
            return self._pool(kernel)
        args = [self._args.get(id(o.tensor)) for o in kernel.inputs]
        found = [arg for arg in args if arg is not None]
        known = [t for t in kernel.node.inputs if t.name and not self._constant(t)]
        if (
            not found
            or len(found) != len(args)
            or (op in ("Add", "Sum", "Mul") and len(known) < len(kernel.node.inputs))
        ):
            return False
        if op in ("Add", "Sum", "Mul"):
            return self._binary(kernel, found)
        if op == "Concat":
            if edit.attr(kernel.node, "axis", 0) != 1 or any(arg.channels % self._block for arg in found):
                return False
            return self._append(kernel, sum(self._args[id(o.tensor)].channels for o in kernel.inputs), found[0].dims)
        if op in _ACTIVATIONS:
            return self._take_in(kernel, found[0], activation=True) or self._append(
                kernel, found[0].channels, found[0].dims
            )
        if op == "com.microsoft::QuickGelu":
            return self._append(kernel, found[0].channels, found[0].dims)
        if op == "BatchNormalization":
            channels = found[0].channels
            loops = replace(kernel.geometry, groups=channels, cin=1, cout=1)
            conv = replace(kernel, op="Conv", kind="depthwise", macs=kernel.elements, channels=channels, geometry=loops)
            return self._append(conv, channels, found[0].dims, is_conv=True)
        if op == "Transpose" and _permutes(kernel, _TO_LAST):
            self._out.append(kernel)  # brings the tensor back and transposes it at once
            return True
        if op in ("Resize", "Upsample") and self._scales(kernel.node, op):
            return self._append(kernel, found[0].channels)
        return op in ("GlobalAveragePool", "GlobalMaxPool") and self._pool(kernel)

    def _append(
        self, kernel: Kernel, channels: int, dims: tuple[object, ...] | None = None, *, is_conv: bool = False
    ) -> bool:
        self._out.append(kernel)
        self.blocked.add(id(kernel))
        tensor = kernel.outputs[0].tensor
        own = dims or tuple((id(tensor), axis, 0) for axis in (0, 2, 3))
        self._args[id(tensor)] = _Arg(len(self._out) - 1, self._uses[id(tensor)], channels, is_conv, own)
        return True

    def _take_in(self, kernel: Kernel, arg: _Arg, *, activation: bool = False) -> bool:
        """Let the convolution that makes an argument take in the one kernel that reads it."""
        conv = self._out[arg.place]
        if conv is None or not arg.is_conv or arg.uses != 1 or has_activation(conv):
            return False
        if not activation and has_sum(conv):
            return False
        self._out[arg.place] = None
        self.blocked.discard(id(conv))
        return self._append(merged(conv, kernel), arg.channels, arg.dims, is_conv=True)

    def _conv(self, kernel: Kernel) -> bool:
        node = kernel.node
        weight = self._shapes.of(node.inputs[1])
        if weight is None or len(weight) != 4 or not all(self._constant(t) for t in node.inputs[1:3] if t.name):
            return False
        cout, cin = weight[:2]
        groups = int(edit.attr(node, "group", 1))
        direct = groups == 1 and cin < self._block  # reads a few channels as they are
        if groups > 1:
            per_group = cout // groups
            depthwise = cin == 1 and cout == groups
            if cout % _ALIGNED or not (depthwise or (cin % self._block == 0 and per_group % self._block == 0)):
                return False
        elif not direct and cin % _ALIGNED:
            return False
        others = kernel.inputs[1:] if not direct else kernel.inputs
        self._bring_back(kernel, others)
        if not direct:
            self._bring_there(kernel)
        return self._append(kernel, cout, None if direct else self._moved(kernel, weight[2:]), is_conv=True)

    def _moved(self, kernel: Kernel, window: Sequence[int]) -> tuple[object, ...] | None:
        """Whose batch, height and width the result of a window has, if its padding keeps the size or halves it."""
        arg = self._args.get(id(kernel.inputs[0].tensor))
        node, result = kernel.node, kernel.outputs[0].tensor
        if arg is None or len(window) != 2:
            return None
        dims = [arg.dims[0]]
        same = str(edit.attr(node, "auto_pad", "NOTSET")).startswith("SAME")
        pads = edit.attr(node, "pads", [0] * 4)
        for axis in (0, 1):
            stride = edit.attr(node, "strides", [1, 1])[axis]
            padded = same or pads[axis] + pads[axis + 2] + 1 == window[axis]
            whole = stride in (1, 2) and edit.attr(node, "dilations", [1, 1])[axis] == 1
            before = arg.dims[1 + axis]
            tensor, own, halved = before if isinstance(before, tuple) else (id(result), 2 + axis, 0)
            keeps = padded and whole
            dims.append((tensor, own, halved + stride - 1) if keeps else (id(result), 2 + axis, 0))
        return tuple(dims)

    def _pool(self, kernel: Kernel) -> bool:
        shape = self._shapes.of(kernel.inputs[0].tensor)
        if len(kernel.outputs) != 1 or shape is None or len(shape) != 4 or shape[1] % self._block:
            return False
        self._bring_there(kernel)
        return self._append(kernel, shape[1], self._moved(kernel, edit.attr(kernel.node, "kernel_shape", [])))

    def _binary(self, kernel: Kernel, args: list[_Arg]) -> bool:
        if len({arg.channels for arg in args}) > 1:
            return False
        if not self._surely_alike(kernel, args):
            if kernel.op == "Mul":
                return False
            self._out += [view(kernel, operand) for operand in kernel.inputs]  # as five axes, blocks and all
            self._append(kernel, args[0].channels)
            self._out.append(view(kernel, kernel.outputs[0]))
            return True
        if kernel.op != "Mul" and len(kernel.node.inputs) == 2 and any(self._take_in(kernel, arg) for arg in args):
            return True
        return self._append(kernel, args[0].channels, args[0].dims)

    def _surely_alike(self, kernel: Kernel, args: list[_Arg]) -> bool:
        """Whether all inputs have the same batch, height and width by origin, by number or by name."""
        first = kernel.inputs[0].tensor
        for operand, arg in zip(kernel.inputs, args, strict=True):
            if self._shapes.of(operand.tensor) != self._shapes.of(first):
                return False
            for place, axis in enumerate((0, 2, 3)):
                same = arg.dims[place] == args[0].dims[place]
                if not same and not self._stated.alike(operand.tensor, first, axis):
                    return False
        return True

    def _scales(self, node: gs.Node, op: str) -> bool:
        """Whether a Resize enlarges images by constant whole factors, in a way that works on blocks."""
        given = edit.inp(node, 1 if op == "Upsample" or len(node.inputs) == 2 else 2)
        scales = None if given is None else edit.const(given)
        if len(node.inputs) > 3 or scales is None or scales.size != 4 or (scales != scales.astype(int)).any():
            return False
        if list(scales[:2]) != [1, 1]:
            return False
        mode = edit.attr(node, "mode", "nearest")
        if mode == "linear" or op == "Upsample" or len(node.inputs) == 2:
            return mode in ("nearest", "linear")
        transform = edit.attr(node, "coordinate_transformation_mode", "half_pixel")
        rounding = edit.attr(node, "nearest_mode", "round_prefer_floor")
        return bool(mode == "nearest" and transform == "asymmetric" and rounding == "floor")

    def _constant(self, tensor: gs.Tensor) -> bool:
        return self._facts.constant(tensor)


def _permutes(kernel: Kernel, order: list[int]) -> bool:
    return kernel.op == "Transpose" and edit.attr(kernel.node, "perm", []) == order


def _reorder(kernel: Kernel, operand: Operand, shapes: Shapes, op: str, instead: Kernel | None = None) -> Kernel:
    count = shapes.elements(operand.tensor)
    _, channels, *sides = shapes.of(operand.tensor) or (1, 1)
    return replace(
        instead or kernel,
        op=op,
        kind="transpose",
        nodes=instead.nodes if instead else (),
        inputs=instead.inputs if instead else (operand,),
        outputs=(operand,),
        weight_bytes=0,
        macs=0,
        channels=0,
        elements=count,
        geometry=Geometry(groups=count, cin=channels, oh=prod(sides)),
    )
