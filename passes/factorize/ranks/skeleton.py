"""Factors without numbers: what a method makes of a layer at a rank, before anything has been decomposed.

Shapes alone say what the layers would cost, so that what does not pay need not be decomposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.shapes import Shapes
from lpcc.passes.factorize.factors import Factors, Rank, Stage
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.bmd import Bmd
from lpcc.passes.factorize.methods.cpd import Cpd, SeparableCpd
from lpcc.passes.factorize.methods.svd import Svd

Array = np.ndarray[Any, Any]

_NUMBER: Final = np.asarray(1 / 3)
"""Stands for every weight: no zero and no power of two, which special hardware would find cheap."""

_AHEAD: Final = {"svd": Svd.ahead, "bmd": Bmd.ahead}

_Shape = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape of a stage's tensor and the axes along which it moves."""


def skeleton(form: Form, method: str, rank: Rank) -> Factors:
    """The factors of a layer at a rank, all weights of which are one number that takes no memory."""
    shapes = _STAGES[method](form, rank)
    return Factors(method, rank, tuple(Stage(np.broadcast_to(_NUMBER, shape), axes) for shape, axes in shapes))


def is_cpd(form: Form, method: str) -> bool:
    """Whether a method writes a layer as a sum of rank-one terms, and so has no matrices to cut."""
    return method.startswith("cpd") and not form.is_pointwise


def most(form: Form, method: str) -> Rank:
    """The ranks at which nothing can be lost, by shape alone: no numerical rank is above them."""
    if is_cpd(form, method):
        parts = SeparableCpd.split(form.kernel) if method == SeparableCpd.name else Cpd.split(form.kernel)
        sizes = (form.inputs, form.outputs, *(prod(form.kernel[axis] for axis in part) for part in parts))
        return (prod(sizes) // max(sizes),)
    return tuple(min(each.shape[1:]) for each in unfoldings(form, method))


def unfoldings(form: Form, method: str) -> tuple[Array, ...]:
    """The matrices (groups, any, any) whose ranks are those of a method; for sums of terms those of tucker2."""
    tensor = form.tensor
    groups, outputs, inputs = tensor.shape[:3]
    if form.is_pointwise or method in _AHEAD:
        ahead = _AHEAD.get(method, Svd.ahead)(form)
        order = sorted(range(len(form.kernel)), key=lambda axis: axis not in ahead)
        rows = inputs * prod(form.kernel[axis] for axis in ahead)
        return (tensor.transpose(0, 2, *(3 + axis for axis in order), 1).reshape(groups, rows, -1),)
    by_input = tensor.swapaxes(1, 2).reshape(groups, inputs, -1)
    return by_input, tensor.reshape(groups, outputs, -1)


@dataclass(frozen=True)
class Work:
    """At how many places the layers are computed: sizes along the kernel's axes, and the rows of a product."""

    read: tuple[int, ...]
    """Of the layer's input."""
    made: tuple[int, ...]
    """Of its output."""
    rows: int
    """Everything else: the batch; of Gemm and MatMul all but the last axis."""
    transposed: bool = False

    @classmethod
    def of(cls, node: gs.Node, form: Form, shapes: Shapes) -> Work:
        """That of a layer.

        Raises:
            Declined: the shape of what it reads or makes is not known.
        """
        read, made = shapes.of(node.inputs[0]), shapes.of(node.outputs[0])
        if not read or not made:
            raise Declined("the shape of its input or output is not known")
        if not form.op.startswith("Conv"):
            return cls((), (), prod(read[:-1]))
        return cls(tuple(read[2:]), tuple(made[2:]), read[0], form.op == "ConvTranspose")

    def layer(self, form: Form) -> int:
        """Multiply-accumulates of the layer as it is."""
        return self.rows * form.tensor.size * prod(self.read if self.transposed else self.made)

    def stages(self, stages: Iterable[Stage]) -> int:
        """Multiply-accumulates of layers one after the other, each of which turns some axes from `read` to `made`."""
        places, total = list(self.read), 0
        for stage in stages:
            before = prod(places)
            for axis in stage.axes:
                places[axis] = self.made[axis]
            total += stage.tensor.size * (before if self.transposed else prod(places))
        return self.rows * total


def _pair(form: Form, rank: Rank, ahead: Iterable[int]) -> list[_Shape]:
    axes = range(len(form.kernel))
    first = tuple(axis for axis in axes if axis in set(ahead))
    last = tuple(axis for axis in axes if axis not in first)
    sizes = [[size if axis in own else 1 for axis, size in enumerate(form.kernel)] for own in (first, last)]
    return [
        ((form.groups, rank[0], form.inputs, *sizes[0]), first),
        ((form.groups, form.outputs, rank[0], *sizes[1]), last),
    ]


def _tucker2(form: Form, rank: Rank) -> list[_Shape]:
    if form.is_pointwise:
        return _pair(form, rank, Svd.ahead(form))
    ones, axes = (1,) * len(form.kernel), tuple(range(len(form.kernel)))
    before, behind = lowered(form, rank)
    return [
        ((form.groups, before, form.inputs, *ones), ()),
        ((form.groups, behind, before, *form.kernel), axes),
        ((form.groups, form.outputs, behind, *ones), ()),
    ]


def lowered(form: Form, rank: Rank) -> Rank:
    """A pair of ranks of Tucker-2, of which neither is more than the other leaves directions for."""
    taps = prod(form.kernel)
    return min(rank[0], taps * rank[1]), min(rank[1], taps * rank[0])


def _cpd(parts: Sequence[tuple[int, ...]], form: Form, rank: Rank) -> list[_Shape]:
    """Depthwise layers, each along some of the axes, between two of a pixel; one input is no layer of its own."""
    if form.is_pointwise:
        return _pair(form, rank, Svd.ahead(form))
    axes = range(len(form.kernel))
    sizes = [[form.kernel[axis] if axis in part else 1 for axis in axes] for part in parts]
    depthwise = [((form.groups * rank[0], 1, 1, *own), part) for own, part in zip(sizes, parts, strict=True)]
    ones = (1,) * len(form.kernel)
    first: _Shape = ((form.groups, rank[0], form.inputs, *ones), ())
    if form.inputs == 1:
        first = ((form.groups, rank[0], 1, *sizes[0]), parts[0])
        del depthwise[0]
    return [first, *depthwise, ((form.groups, form.outputs, rank[0], *ones), ())]


_STAGES: Final[Mapping[str, Callable[[Form, Rank], list[_Shape]]]] = {
    "svd": lambda form, rank: _pair(form, rank, Svd.ahead(form)),
    "bmd": lambda form, rank: _pair(form, rank, Bmd.ahead(form)),
    "tucker2": _tucker2,
    "cpd": lambda form, rank: _cpd(Cpd.split(form.kernel), form, rank),
    "cpd-separable": lambda form, rank: _cpd(SeparableCpd.split(form.kernel), form, rank),
}
