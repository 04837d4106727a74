"""Operators that read elements at given places and write them there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, always

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: Tensor, size: int, x: Tensor) -> Tensor:
    """Places counted from the start, where x lies; negative ones count from the end."""
    indices = indices.to(device=x.device, dtype=torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def gather(call: Call) -> Kernel:
    """The slices of an axis at the places that the second input names, in its shape."""
    axis = call.integer("axis", 0)

    def kernel(x: Tensor, indices: Tensor) -> Tensor:
        if not indices.dim() and indices.device.type == "cpu":
            return x.select(axis, int(indices.item()))
        at = axis % x.dim()
        y = x.index_select(at, _positive(indices, x.shape[at], x).flatten())
        return y if indices.dim() == 1 else y.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])

    return kernel


def gather_elements(call: Call) -> Kernel:
    """For each element of the second input, the element of that place on the axis, else of the same place."""
    axis = call.integer("axis", 0)
    return lambda x, indices: x.gather(axis, _positive(indices, x.shape[axis], x))


def gather_nd(call: Call) -> Kernel:
    """The slices at the places that the rows of the second input name, after `batch_dims` common axes."""
    common = call.integer("batch_dims", 0)

    def kernel(x: Tensor, indices: Tensor) -> Tensor:
        batch = x.shape[:common]
        depth = indices.shape[-1]
        flat = x.reshape(math.prod(batch), *x.shape[common:])
        rows = indices.to(x.device).reshape(math.prod(batch), -1, depth)
        places = [_positive(rows[..., axis], x.shape[common + axis], x) for axis in range(depth)]
        samples = torch.arange(flat.shape[0], device=x.device).unsqueeze(1).expand(-1, rows.shape[1])
        found = flat[(samples, *places)]
        return found.reshape(*indices.shape[:-1], *x.shape[common + depth :])

    return kernel


def scatter_elements(call: Call) -> Kernel:
    """The first input with the elements of the third at the places on the axis that the second names."""
    axis, how = call.integer("axis", 0), _reduction(call)

    def kernel(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _positive(indices, x.shape[axis], x)
        if how is None:
            return x.scatter(axis, places, updates.to(x))
        return x.scatter_reduce(axis, places, updates.to(x), how, include_self=True)

    return kernel


def scatter_nd(call: Call) -> Kernel:
    """The first input with the slices of the third at the places that the rows of the second name."""
    how = _reduction(call)

    def kernel(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        outer, inner = x.shape[:depth], math.prod(x.shape[depth:])
        rows = indices.to(x.device).reshape(-1, depth)
        place = torch.zeros(rows.shape[0], dtype=torch.int64, device=x.device)
        for axis in range(depth):
            place = place * outer[axis] + _positive(rows[:, axis], outer[axis], x)
        flat, new = x.reshape(-1, inner), updates.to(x).reshape(-1, inner)
        if how is None:
            return flat.index_copy(0, place, new).reshape(x.shape)
        return flat.scatter_reduce(0, place.unsqueeze(1).expand_as(new), new, how, include_self=True).reshape(x.shape)

    return kernel


def _reduction(call: Call) -> str | None:
    how = call.text("reduction", "none")
    if how == "none":
        return None
    if how not in _REDUCTIONS:
        raise Unsupported(f"reduction={how} is not known")
    return _REDUCTIONS[how]


def tensor_scatter(call: Call) -> Kernel:
    """A cache with new rows written along an axis from a place of each sample; mode circular: on from the beginning."""
    axis, circular = call.integer("axis", -2), call.text("mode", "linear") == "circular"

    def kernel(past: Tensor, update: Tensor, writes: Tensor = None) -> Tensor:
        at = axis % past.dim()
        steps = torch.arange(update.shape[at], device=past.device)
        starts = past.new_zeros(past.shape[0], dtype=torch.int64) if writes is None else writes.to(past.device)
        places = starts.unsqueeze(1) + steps
        if circular:
            places = places % past.shape[at]
        shape = [past.shape[0], *[1] * (past.dim() - 1)]
        shape[at] = update.shape[at]
        return past.scatter(at, places.reshape(shape).expand(update.shape), update.to(past))

    return kernel


def compress(call: Call) -> Kernel:
    """The slices of an axis (or, without one, the elements) where the condition holds."""
    axis = call.attrs.get("axis")

    def kernel(x: Tensor, condition: Tensor) -> Tensor:
        chosen = condition.to(x.device).nonzero().flatten()
        return x.flatten().index_select(0, chosen) if axis is None else x.index_select(int(axis), chosen)

    return kernel


def one_hot(call: Call) -> Kernel:
    """`values[1]` at the place on a new axis that each index names, else `values[0]`."""
    axis = call.integer("axis", -1)

    def kernel(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth.item())
        at = axis % (indices.dim() + 1)
        wanted = indices.to(device=values.device, dtype=torch.int64).unsqueeze(at)
        wanted = torch.where(wanted < 0, wanted + count, wanted)
        shape = [1] * (indices.dim() + 1)
        shape[at] = count
        return torch.where(wanted == torch.arange(count, device=values.device).reshape(shape), values[1], values[0])

    return kernel


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where the condition holds, else `b`."""
    if not (condition.device == a.device == b.device):
        device = next(t.device for t in (a, b, condition) if t.device.type != "cpu")
        condition, a, b = condition.to(device), a.to(device), b.to(device)
    return torch.where(condition, a, b)


STANDARD: Mapping[str, Lowering] = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
    "Where": always(where),
}
