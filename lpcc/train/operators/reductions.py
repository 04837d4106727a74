"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]
"""Function of a tensor, the axes to reduce (at least one), and whether to keep them as axes of one element."""

_FIRST_WITH_INPUT = {"ReduceSum": 13}


def reduction(function: Reduction, single: Callable[[Tensor], Tensor] | None = None) -> Lowering:
    """An operator that reduces by `function`; over no axes it is `single`, the identity where not given."""

    def lowering(call: Call) -> Kernel:
        keep = bool(call.integer("keepdims", 1))
        stay = bool(call.integer("noop_with_empty_axes", 0))
        as_input = call.opset >= _FIRST_WITH_INPUT.get(call.op, 18)
        stated = tuple(call.integers("axes") or ())

        def reduce(x: Tensor, axes: tuple[int, ...]) -> Tensor:
            if (not axes and stay and as_input) or not x.dim():
                return single(x) if single else x
            return function(x, axes or tuple(range(x.dim())), keep)

        if not as_input:
            return lambda x: reduce(x, stated)
        return lambda x, axes=None: reduce(x, () if axes is None else tuple(axes.tolist()))

    return lowering


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return torch.div(x.sum(axes, keepdim=keep), _count(x, axes), rounding_mode="trunc").to(x.dtype)


def _count(x: Tensor, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _max(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if not _count(x, axes):
        return _empty(x, axes, keep, greatest=False)
    return x.amax(axes, keepdim=keep)


def _min(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if not _count(x, axes):
        return _empty(x, axes, keep, greatest=True)
    return x.amin(axes, keepdim=keep)


def _empty(x: Tensor, axes: tuple[int, ...], keep: bool, *, greatest: bool) -> Tensor:
    """The extreme of no elements: the other end of the type."""
    shape = x.new_zeros(x.shape, dtype=torch.int32).sum(axes, keepdim=keep).shape
    if x.is_floating_point():
        return x.new_full(shape, math.inf if greatest else -math.inf)
    if x.dtype == torch.bool:
        return x.new_full(shape, greatest)
    info = torch.iinfo(x.dtype)
    return x.new_full(shape, info.max if greatest else info.min)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    dtype = x.dtype
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=dtype)
    return x


def _norm1(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _norm2(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if not x.is_floating_point():
        return _sum(x.to(torch.float64).square(), axes, keep).sqrt().to(x.dtype)
    return torch.linalg.vector_norm(x, 2, axes, keepdim=keep)


def _log_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(x, axes, keep).log()


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


def _sum_square(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(x.square(), axes, keep)


STANDARD: Mapping[str, Lowering] = {
    "ReduceL1": reduction(_norm1, torch.abs),
    "ReduceL2": reduction(_norm2, torch.abs),
    "ReduceLogSum": reduction(_log_sum, torch.log),
    "ReduceLogSumExp": reduction(_log_sum_exp),
    "ReduceMax": reduction(_max),
    "ReduceMean": reduction(_mean),
    "ReduceMin": reduction(_min),
    "ReduceProd": reduction(_product),
    "ReduceSum": reduction(_sum),
    "ReduceSumSquare": reduction(_sum_square, torch.square),
}
