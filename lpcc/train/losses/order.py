"""The order in which neurons activate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lpcc.pipeline.base import Range
from lpcc.train.losses.base import LEAST
from lpcc.train.losses.layers import LayerLoss


@dataclass(frozen=True)
class Order(LayerLoss):
    """Activation order: for each sample, the student's neurons are active in the order of the teacher's.

    With the neurons of a layer (channels, averaged over their positions) in the order in which the teacher activates
    them, a(1) >= a(2) >= ..., each is compared with those 1, 2, 4, 8, ... places below it:

        L = mean_pairs mean_samples mean_{k, i} max(0, min(m, t_a(i) - t_a(i+k)) - (s_a(i) - s_a(i+k)))^2

    where t and s are the activations of teacher and student, each brought to mean 0 and standard deviation 1 over the
    neurons of a sample. So scale and offset are free, and so is the distance between two neurons as soon as it exceeds
    the margin m; where the teacher tells two neurons hardly apart, they only must not change places. The loss is zero
    where the order is the teacher's by that margin, and between 1 and 2 where the two have nothing in common.
    Neighbours alone determine an order; those further away make it known in O(n log n) comparisons where all pairs
    would be O(n^2).

    Neither a softmax nor an equal structure is needed: where the widths differ, a regressor (that of `hint`) carries
    the student's neurons to the teacher's, and is thrown away. Layers of one neuron have no order and cost nothing.

    Goel, Tung, Lu, Thiruvathukal: A Survey of Methods for Low-Power Deep Learning and Computer Vision, 2020, section V,
    proposes to teach the order in which neurons activate instead of their values, and gives no equation: this one is
    our reading, with the hinge of rankings after Burges et al.: Learning to Rank using Gradient Descent, 2005.
    """

    name: ClassVar[str] = "order"
    weight: ClassVar[float] = 10.0
    margin: Annotated[float, Range(0.01, 4)] = 0.5
    """m, in standard deviations of the activations of a sample."""

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared hinge over the comparisons of all samples."""
        neurons = teacher.shape[1]
        ranks = teacher.argsort(dim=1, descending=True, stable=True)
        ours, theirs = (_standard(layer).gather(1, ranks) for layer in (student, teacher))
        loss, comparisons, step = student.sum() * 0, 0, 1
        while step < neurons:
            wanted = (theirs[:, :-step] - theirs[:, step:]).clamp_max(self.margin)
            short = (wanted - (ours[:, :-step] - ours[:, step:])).clamp_min(0)
            loss = loss + short.square().sum()
            comparisons += short.numel()
            step *= 2
        return loss / max(comparisons, 1)

    def regressed(self, student: Tensor, teacher: Tensor) -> bool:
        """Where the widths differ."""
        return student.shape[1] != teacher.shape[1]

    def pooled(self) -> bool:
        """A neuron is a channel: where in the image it is active does not matter."""
        return True


def _standard(layer: Tensor) -> Tensor:
    centred = layer - layer.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(1, keepdim=True) + LEAST)
