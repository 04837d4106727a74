"""What a model takes and gives: names, types and shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Dim = int | str | None
"""A dimension: fixed, named (any size, the same wherever the name is used), or unknown."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of a model's input or output.

    ``dtype`` is None for what is no tensor (a sequence, a map, an optional), ``shape`` where the rank is unknown.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        kind = "?" if self.dtype is None else self.dtype.name
        return f"{self.name}: {kind}{shape_text(self.shape)}"

    def may_equal(self, other: TensorSpec) -> bool:
        """Whether two specs agree in type, in rank and in all sizes that both state."""
        if self.dtype != other.dtype:
            return False
        if self.shape is None or other.shape is None:
            return True
        sizes = zip(self.shape, other.shape, strict=False)
        stated = [(ours, theirs) for ours, theirs in sizes if isinstance(ours, int) and isinstance(theirs, int)]
        return len(self.shape) == len(other.shape) and all(ours == theirs for ours, theirs in stated)

    @classmethod
    def inputs_of(cls, model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
        """The inputs that a run of `model` must feed: those without an initialiser of the same name."""
        given = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
        return cls._of(v for v in model.graph.input if v.name not in given)

    @classmethod
    def outputs_of(cls, model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
        """The outputs that `model` declares."""
        return cls._of(model.graph.output)

    @classmethod
    def _of(cls, values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
        from onnx.helper import tensor_dtype_to_np_dtype

        specs = []
        for value in values:
            if not value.type.HasField("tensor_type"):
                specs.append(cls(value.name, None, None))
                continue
            tensor = value.type.tensor_type
            shape: tuple[Dim, ...] | None = None
            if tensor.HasField("shape"):
                shape = tuple(_dim(d) for d in tensor.shape.dim)
            dtype = tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
            specs.append(cls(value.name, dtype, shape))
        return tuple(specs)


def unlike(ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> tuple[str, str] | None:
    """What tells two lists of specs apart, on either side in words; None where both may be the same, in any order."""
    mine, other = ({spec.name: spec for spec in specs} for specs in (ours, theirs))
    if mine.keys() != other.keys():
        return ", ".join(mine), ", ".join(other)
    for name, spec in mine.items():
        if not spec.may_equal(other[name]):
            return str(spec), str(other[name])
    return None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.dim_param:
        return dim.dim_param
    # Paddle writes an unknown size as -1.
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def shape_text(shape: Iterable[Dim] | None) -> str:
    """A shape as people write it: ``[batch, 3, ?, 32]``, or ``[...]`` where the rank is unknown."""
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
