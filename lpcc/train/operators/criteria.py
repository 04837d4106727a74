"""Losses that are part of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, as_listed


def negative_log_likelihood(call: Call) -> Kernel:
    """Minus the logarithmic probability of the labelled class, weighted by class; mean, sum, or each."""
    reduction, ignored = call.text("reduction", "mean"), call.attrs.get("ignore_index")

    def kernel(x: Tensor, target: Tensor, weight: Tensor = None) -> Tensor:
        skipped = torch.zeros_like(target, dtype=torch.bool) if ignored is None else target == int(ignored)
        target = torch.where(skipped, 0, target).to(device=x.device, dtype=torch.int64)
        each = -x.gather(1, target.unsqueeze(1)).squeeze(1)
        weights = torch.ones_like(each) if weight is None else weight[target]
        weights = torch.where(skipped, 0, weights)
        each = each * weights
        if reduction == "none":
            return each
        return each.sum() / weights.sum() if reduction == "mean" else each.sum()

    return kernel


def softmax_cross_entropy(call: Call) -> Kernel:
    """`negative_log_likelihood` of log softmax over the classes, which is the second output."""
    loss = negative_log_likelihood(call)

    def kernel(x: Tensor, target: Tensor, weight: Tensor = None) -> Tensor:
        logs = F.log_softmax(x, 1)
        return as_listed(call, (loss(logs, target, weight), logs))

    return kernel


STANDARD: Mapping[str, Lowering] = {
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
}
