"""Operators that choose elements by their values."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, as_listed


def top_k(call: Call) -> Kernel:
    """The k greatest (or least) elements along an axis, in order, and their places; of equal ones the first."""
    axis, greatest = call.integer("axis", -1), bool(call.integer("largest", 1))
    stated = call.attrs.get("k")

    def kernel(x: Tensor, k: Tensor = None) -> Tensor:
        count = int(k.item()) if stated is None else int(stated)
        values, places = torch.sort(x, dim=axis, descending=greatest, stable=True)
        return as_listed(call, (values.narrow(axis, 0, count), places.narrow(axis, 0, count)))

    return kernel


def arg_max(call: Call) -> Kernel:
    """The place of the greatest element along an axis; of equal ones the first, or under select_last_index the last."""
    return _arg(call, torch.amax)


def arg_min(call: Call) -> Kernel:
    """The place of the least element along an axis; of equal ones the first, or under select_last_index the last."""
    return _arg(call, torch.amin)


def _arg(call: Call, extreme: Kernel) -> Kernel:
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    last = bool(call.integer("select_last_index", 0))

    def kernel(x: Tensor) -> Tensor:
        hits = x == extreme(x, axis, keepdim=True)
        if last:
            return x.shape[axis] - 1 - hits.flip(axis).to(torch.uint8).argmax(axis, keepdim=keep)
        return hits.to(torch.uint8).argmax(axis, keepdim=keep)

    return kernel


def non_max_suppression(call: Call) -> Kernel:
    """Rows (batch, class, box) of the boxes that no better box of their class overlaps by more than the threshold."""
    centred = bool(call.integer("center_point_box", 0))

    def kernel(
        boxes: Tensor, scores: Tensor, most: Tensor = None, overlap: Tensor = None, least: Tensor = None
    ) -> Tensor:
        limit = 0 if most is None else int(most.item())
        threshold = 0.0 if overlap is None else float(overlap.item())
        floor = None if least is None else float(least.item())
        boxes, scores = boxes.detach().cpu(), scores.detach().cpu()
        corners = _corners(boxes, centred)
        found = [
            [batch, kind, box]
            for batch in range(scores.shape[0])
            for kind in range(scores.shape[1])
            for box in _kept(corners[batch], scores[batch, kind], limit, threshold, floor)
        ]
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)

    return kernel


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    """Boxes as least and greatest coordinates."""
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat([middle - half, middle + half], -1)
    a, b = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _kept(boxes: Tensor, scores: Tensor, limit: int, threshold: float, floor: float | None) -> list[int]:
    order = torch.sort(scores, descending=True, stable=True).indices
    if floor is not None:
        order = order[scores[order] > floor]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    while order.numel() and len(kept) < limit:
        best = int(order[0])
        kept.append(best)
        order = order[1:]
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (high - low).clamp(min=0).prod(1)
        union = areas[best] + areas[order] - common
        order = order[~((common > threshold * union) & (union > 0))]
    return kept


def unique(call: Call) -> Kernel:
    """The different elements (or slices of an axis), where each first occurs, which each is, and how many there are."""
    axis, in_order = call.attrs.get("axis"), bool(call.integer("sorted", 1))

    def kernel(x: Tensor) -> Tensor:
        data = x.flatten() if axis is None else x
        at = 0 if axis is None else int(axis) % x.dim()
        _, inverse, counts = torch.unique(data.detach(), return_inverse=True, return_counts=True, dim=at)
        inverse = inverse.flatten()
        places = torch.arange(inverse.numel(), device=x.device)
        first = places.new_full((counts.numel(),), inverse.numel()).scatter_reduce(0, inverse, places, "amin")
        if not in_order:
            order = first.argsort()
            rank = torch.empty_like(order).scatter(0, order, torch.arange(order.numel(), device=x.device))
            first, counts, inverse = first[order], counts[order], rank[inverse]
        return as_listed(call, (data.index_select(at, first), first, inverse, counts))

    return kernel


STANDARD: Mapping[str, Lowering] = {
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "NonMaxSuppression": non_max_suppression,
    "TopK": top_k,
    "Unique": unique,
}
