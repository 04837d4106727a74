"""A layer as a tensor: what its weights are, whatever operator holds them, and how they move over the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.match import is_float

Array = np.ndarray[Any, Any]

OPERATORS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Whose weights are tensors to factorise."""


class Declined(Exception):  # noqa: N818 - not an error: the layer is left alone
    """A layer cannot be factorised; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Form:
    """A layer with constant weights.

    Along each of the kernel's axes a convolution has a stride, a dilation, padding before and after, and a transposed
    one a padding of its output; Gemm and MatMul have no such axes.
    """

    op: str
    tensor: Array
    """float64 (groups, N, C, *kernel): outputs and inputs of a group, and the kernel."""
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    """Before each axis, then after each."""
    output_padding: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"

    @classmethod
    def of(cls, node: gs.Node) -> Form:
        """The form of a layer.

        Raises:
            Declined: another operator, weights that are no finite constants of a float type, that are all zero, that
                other nodes read too or that have another shape than the operator's usual one, a transposed input, a
                transposed convolution whose padding follows from the sizes of its output.
        """
        op = edit.op(node)
        if op not in OPERATORS:
            raise Declined(f"a {op} has no weights to factorise")
        weight = edit.inp(node, 1)
        if not isinstance(weight, gs.Constant) or isinstance(edit.inp(node, 0), gs.Constant):
            raise Declined("its weights are not constant")
        if not is_float(weight.dtype):
            raise Declined(f"its weights are of type {weight.dtype}")
        if len(weight.outputs) != 1:
            raise Declined("it shares its weights with another layer")
        values = np.asarray(weight.values).astype(np.float64)
        if not np.isfinite(values).all():
            raise Declined("its weights are not all finite")
        if values.size == 0:
            raise Declined("it has no weights")
        if not values.any():
            raise Declined("its weights are all zero")
        return _convolution(node, values) if op.startswith("Conv") else _product(node, values)

    @property
    def groups(self) -> int:
        """Groups of channels that are convolved apart."""
        return int(self.tensor.shape[0])

    @property
    def outputs(self) -> int:
        """Output channels of a group, N."""
        return int(self.tensor.shape[1])

    @property
    def inputs(self) -> int:
        """Input channels of a group, C."""
        return int(self.tensor.shape[2])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the window; empty for Gemm and MatMul."""
        return tuple(self.tensor.shape[3:])

    @property
    def matrix(self) -> Array:
        """The weights as (groups, depth, N), as `lpcc.calibrate.patches.Window.matrix` has them: depth = C x kernel."""
        flat: Array = self.tensor.reshape(self.groups, self.outputs, -1).transpose(0, 2, 1)
        return flat

    def with_matrix(self, matrix: Array) -> Form:
        """The same layer with other weights (groups, depth, N)."""
        return replace(self, tensor=np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(self.tensor.shape))

    @property
    def is_pointwise(self) -> bool:
        """Whether each output depends on one place of the input alone: Gemm, MatMul, and kernels of one pixel."""
        return all(size == 1 for size in self.kernel)


def _convolution(node: gs.Node, values: Array) -> Form:
    op, groups, rank = edit.op(node), int(edit.attr(node, "group", 1)), values.ndim - 2
    if rank < 1 or groups < 1 or values.shape[0] % groups:
        raise Declined(f"a {op} has no weights of shape {list(values.shape)} in {groups} groups")
    tensor = values.reshape(groups, values.shape[0] // groups, *values.shape[1:])
    pad = edit.attr(node, "auto_pad", "NOTSET")
    auto_pad = pad.decode() if isinstance(pad, bytes) else str(pad)
    if op == "ConvTranspose":
        tensor = tensor.swapaxes(1, 2)
        if auto_pad not in ("NOTSET", "VALID") or edit.attr(node, "output_shape", None):
            raise Declined("its padding follows from the sizes of its output")

    def numbers(name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(edit.attr(node, name, None) or default)

    zeros, ones = (0,) * rank, (1,) * rank
    return Form(
        op,
        tensor,
        numbers("strides", ones),
        numbers("dilations", ones),
        numbers("pads", zeros + zeros) if auto_pad == "NOTSET" else zeros + zeros,
        numbers("output_padding", zeros),
        auto_pad,
    )


def _product(node: gs.Node, values: Array) -> Form:
    op = edit.op(node)
    if values.ndim != 2:
        raise Declined(f"a {op} with weights of shape {list(values.shape)} is not one matrix product")
    if edit.attr(node, "transA", 0):
        raise Declined("it transposes its input")
    return Form(op, (values if edit.attr(node, "transB", 0) else values.T)[None])
