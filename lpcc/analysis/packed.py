"""Integer weights as the file holds them: constants of few bits, and nodes that bring them to the type of a kernel.

Runtimes compute a Cast, Concat or Gather of constants once, when they load the model. What they read is then int8,
what is stored takes fewer bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.decoding import codes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Part:
    """A constant that holds some of a tensor's slices along one axis: those of the indices `places`, in its order."""

    stored: gs.Constant
    places: Array

    @property
    def bits(self) -> int:
        """Bits of a stored integer."""
        return rules.bits(rules.dtype_of(self.stored))


def parts(tensor: gs.Tensor, axis: int = 0) -> tuple[Part, ...]:
    """The integer constants that a tensor consists of, split along `axis`; nothing where it is made of anything else.

    Each slice is in one of them: a tensor that repeats or leaves out slices of a constant has none.
    """
    if isinstance(tensor, gs.Constant):
        if "int" not in rules.dtype_of(tensor).name or len(tensor.shape) <= axis:
            return ()
        return (Part(tensor, np.arange(tensor.shape[axis])),)
    maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    op = None if maker is None else edit.op(maker)
    if maker is None or not maker.inputs:
        return ()
    if op == "Cast":
        return parts(maker.inputs[0], axis) if tensor.dtype is None or "int" in tensor.dtype.name else ()
    if op == "Concat" and edit.attr(maker, "axis", 0) == axis:
        return _joined([parts(t, axis) for t in maker.inputs])
    order = edit.const(edit.inp(maker, 1)) if op == "Gather" else None
    if op == "Gather" and edit.attr(maker, "axis", 0) == axis and order is not None and order.ndim == 1:
        return _ordered(parts(maker.inputs[0], axis), order)
    return ()


def stored_constants(tensor: gs.Tensor) -> tuple[gs.Constant, ...]:
    """The integer constants that a tensor consists of, joined along its first or second axis; itself if it is one.

    Those behind a tensor that is computed from integers of few bits in any other way, too.
    """
    return tuple(part.stored for part in parts(tensor, 0) or parts(tensor, 1)) or tuple(codes(tensor))


def values(found: Sequence[Part], axis: int) -> Array:
    """The integers that parts along `axis` stand for, as int8 or what they are stored in where that is wider."""
    narrow = [np.asarray(part.stored.values) for part in found]
    integers = [v if v.dtype.kind in "iu" else v.astype(np.int8) for v in narrow]
    order = np.argsort(np.concatenate([part.places for part in found]))
    result: Array = np.take(np.concatenate(integers, axis), order, axis)
    return result


def _joined(several: Sequence[tuple[Part, ...]]) -> tuple[Part, ...]:
    if not all(several):
        return ()
    found: list[Part] = []
    start = 0
    for group in several:
        found += [Part(part.stored, part.places + start) for part in group]
        start += sum(len(part.places) for part in group)
    return tuple(found)


def _ordered(found: tuple[Part, ...], order: Array) -> tuple[Part, ...]:
    count = sum(len(part.places) for part in found)
    place = np.argsort(order)
    if not np.array_equal(np.sort(order), np.arange(count)):
        return ()
    return tuple(Part(part.stored, place[part.places]) for part in found)
