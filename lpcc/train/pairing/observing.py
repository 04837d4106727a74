"""What a network computes on a batch as if it were in training, without its learning anything from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lpcc.train.network import Network

_FEW = 8
"""Samples below which the statistics of a batch say little: then the running ones serve, as in training."""


def observed(network: Network, feeds: Mapping[str, Tensor], taps: Iterable[str] = ()) -> dict[str, Tensor]:
    """Outputs and hidden tensors by name, with batch norms on the statistics of this batch.

    A network whose channels were cut has running statistics that no longer fit it: what they make of a layer is not
    what the first step of training finds there. Running statistics, mode and random numbers are left as they were. A
    frozen network runs as it is.
    """
    training = network.training
    samples = min((len(value) for value in feeds.values() if value.ndim), default=1)
    kept = {} if network.frozen else {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            network.train(samples >= _FEW)
            values: dict[str, Tensor] = network(feeds, tuple(dict.fromkeys(taps)))
        finally:
            network.train(training)
            for name, buffer in network.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])
    return values
