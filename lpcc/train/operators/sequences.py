"""Sequences of tensors, as lists."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, always


def construct(*tensors: Tensor) -> list[Tensor]:
    """A sequence of the tensors."""
    return list(tensors)


def empty() -> list[Tensor]:
    """A sequence of nothing."""
    return []


def at(sequence: list[Tensor], place: Tensor) -> Tensor:
    """The tensor at a place; negative ones count from the end."""
    return sequence[int(place.item())]


def insert(sequence: list[Tensor], tensor: Tensor, place: Tensor = None) -> list[Tensor]:
    """The sequence with a tensor more: before the one at a place, or at the end."""
    where = len(sequence) if place is None else int(place.item())
    return [*sequence[:where], tensor, *sequence[where:]]


def erase(sequence: list[Tensor], place: Tensor = None) -> list[Tensor]:
    """The sequence without the tensor at a place, or the last."""
    where = (-1 if place is None else int(place.item())) % len(sequence)
    return [*sequence[:where], *sequence[where + 1 :]]


def length(sequence: list[Tensor]) -> Tensor:
    """How many tensors there are."""
    return torch.tensor(len(sequence), dtype=torch.int64)


def split(call: Call) -> Kernel:
    """Parts along an axis: of one size or of the sizes given; without sizes one element each, keepdims or not."""
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))

    def kernel(x: Tensor, sizes: Tensor = None) -> list[Tensor]:
        if sizes is None:
            return list(x.split(1, axis)) if keep else list(x.unbind(axis))
        return list(x.split(sizes.tolist() if sizes.dim() else int(sizes.item()), axis))

    return kernel


def concat(call: Call) -> Kernel:
    """The tensors one after the other along an axis, or under new_axis along one of their own."""
    axis, new = call.integer("axis", 0), bool(call.integer("new_axis", 0))
    return lambda sequence: torch.stack(sequence, axis) if new else torch.cat(sequence, axis)


STANDARD: Mapping[str, Lowering] = {
    "ConcatFromSequence": concat,
    "SequenceAt": always(at),
    "SequenceConstruct": always(construct),
    "SequenceEmpty": always(empty),
    "SequenceErase": always(erase),
    "SequenceInsert": always(insert),
    "SequenceLength": always(length),
    "SplitToSequence": split,
}
