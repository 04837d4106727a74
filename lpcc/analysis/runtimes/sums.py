"""A convolution that takes in the residual sum after it, as onnxruntime fuses them once all else is fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.runtimes.base import Facts
from lpcc.analysis.runtimes.fusions import AFTER_CONV

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

_AFFINE = ("Add", "BatchNormalization")


def merged(first: Kernel, then: Kernel) -> Kernel:
    """A kernel that also does what the one after it did with its result."""
    made = {id(o.tensor) for o in first.outputs}
    others = tuple(o for o in then.inputs if id(o.tensor) not in made)
    return replace(
        first,
        nodes=(*first.nodes, *then.nodes),
        inputs=(*first.inputs, *others),
        outputs=then.outputs,
        weight_bytes=first.weight_bytes + then.weight_bytes,
    )


def has_activation(conv: Kernel) -> bool:
    """Whether a convolution ends with an activation."""
    return len(conv.nodes) > 1 and edit.op(conv.nodes[-1]) in (*AFTER_CONV, "HardSwish")


def has_sum(conv: Kernel) -> bool:
    """Whether a convolution adds another activation."""
    return len(conv.inputs) > 1


@dataclass(frozen=True)
class Stated:
    """Which sizes the inputs of a network state, so that the sizes of all its tensors are known to the runtime."""

    batch: bool
    rest: bool

    @staticmethod
    def of(graph: gs.Graph) -> Stated:
        """Batches with a number or a name, and numbers for all other dimensions."""
        shapes = [t.shape or [None] for t in graph.inputs if getattr(t, "default", None) is None]
        named = all(isinstance(shape[0], int) or shape[0] not in (None, "", "?") for shape in shapes)
        return Stated(named, all(isinstance(dim, int) for shape in shapes for dim in shape[1:]))

    def alike(self, first: gs.Tensor, second: gs.Tensor, axis: int) -> bool:
        """Whether two tensors, of equal sizes here, are known to have the same size along an axis."""
        if self.batch if axis == 0 else self.rest:
            return True
        a, b = (t.shape[axis] if t.shape is not None and len(t.shape) > axis else None for t in (first, second))
        return a == b and (
            isinstance(a, int) or (isinstance(a, str) and a not in ("", "?") and not a.startswith("unk"))
        )


def with_sums(kernels: Sequence[Kernel], graph: gs.Graph, facts: Facts, apart: set[int]) -> list[Kernel]:
    """Float convolutions of images take in the sum that alone reads them, and an activation after that.

    Only where they have a bias, no activation of their own, and both addends have the same shape. `apart` are ids of
    kernels that are left as they are.
    """
    uses = Counter(id(o.tensor) for kernel in kernels for o in kernel.inputs)
    uses.update(id(tensor) for tensor in graph.outputs)
    stated = Stated.of(graph)
    out: list[Kernel | None] = []
    places: dict[int, int] = {}  # by tensor: where the kernel that makes it stands
    for kernel in kernels:
        taken = kernel
        if id(kernel) not in apart and kernel.dtype == "float32" and kernel.nodes:
            place = _conv_before(kernel, out, places, uses, facts, apart, stated)
            if place is not None:
                before, out[place] = out[place], None
                taken = kernel if before is None else merged(before, kernel)
        out.append(taken)
        places.update((id(o.tensor), len(out) - 1) for o in taken.outputs)
    return [kernel for kernel in out if kernel is not None]


def _conv_before(
    kernel: Kernel,
    out: list[Kernel | None],
    places: dict[int, int],
    uses: Counter[int],
    facts: Facts,
    apart: set[int],
    stated: Stated,
) -> int | None:
    """Where the convolution stands that takes a sum, or the activation after one, in."""
    makers = sorted(places[id(o.tensor)] for o in kernel.inputs if id(o.tensor) in places and uses[id(o.tensor)] == 1)
    if kernel.op == "Add":
        tensors = kernel.node.inputs
        first, second = (facts.shapes.of(t) for t in tensors)
        if len(kernel.inputs) != 2 or first != second or len(first or ()) != 4 or any(map(facts.constant, tensors)):
            return None
        if not all(stated.alike(tensors[0], tensors[1], axis) for axis in range(4)):
            return None
        for place in makers:
            conv = out[place]
            if conv is None or conv.op != "Conv" or conv.dtype != "float32" or id(conv) in apart:
                continue
            if _has_bias(conv) and not has_activation(conv) and not has_sum(conv):
                return place
        return None
    if kernel.op in AFTER_CONV and makers:
        conv = out[makers[0]]
        bounded = kernel.op != "Clip" or len(kernel.inputs) == 1
        if conv is not None and bounded and conv.op == "Conv" and id(conv) not in apart:
            summed = has_sum(conv) and not has_activation(conv) and conv.dtype == "float32"
            return makers[0] if summed else None
    return None


def _has_bias(conv: Kernel) -> bool:
    given = len(conv.node.inputs) > 2 and conv.node.inputs[2].name != ""
    return given or any(edit.op(node) in _AFFINE for node in conv.nodes)
