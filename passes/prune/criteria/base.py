"""What a criterion of channels is: a number for each channel that says how much it matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups
from lpcc.errors import UsageError
from lpcc.pipeline import Context, Need

Array = np.ndarray[Any, Any]


class Criterion(ABC):
    """Says how much each channel of a graph matters. Its name is what the option `criterion` of passes takes."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    comparable: ClassVar[bool] = False
    """Whether scores of different layers are in one unit, such as a change of the loss; else they are compared after
    `normalised`."""

    @abstractmethod
    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:
        """A score for each channel, float64 (found.count,): not negative, the more the more it matters.

        A channel is scored over its whole group: all that holds it. NaN where the criterion says nothing of a channel;
        so of all that are pinned, maybe. `graph` is annotated with types, and what `found` was made of; it is not
        changed.

        Raises:
            UsageError: the criterion has nothing to go by in this graph, such as batch norms.
        """


def normalised(scores: Array, found: ChannelGroups) -> Array:
    """Scores whose unit differs from layer to layer, so that they can be compared: each group by its root mean square.

    ``s_c / sqrt(mean of s^2 over the group)``: Molchanov et al., Pruning convolutional neural networks for resource
    efficient inference (2017, arXiv 1611.06440), equation 10, with the mean in place of the sum, that wide layers do
    not seem to matter less. NaN stays.
    """
    result = np.array(scores, dtype=np.float64)
    for group in found.groups:
        values = result[group.channels]
        known = values[np.isfinite(values)]
        if len(known) and known.any():
            result[group.channels] = values / np.sqrt(np.mean(np.square(known)))
    return result


def averaged(parts: Iterable[tuple[Array, Array]], found: ChannelGroups) -> Array:
    """For each channel the mean of what several layers or tensors say of it, float64 (found.count,).

    A part is a channel for each place (n,), and a number for each place (n,); where a channel has several places in one
    it is their mean. Numbers that are not finite are left out; NaN for a channel of which there is none.
    """
    sums, counts = np.zeros(found.count), np.zeros(found.count)
    for line, numbers in parts:
        known = np.isfinite(numbers)
        channels, inverse, places = np.unique(line[known], return_inverse=True, return_counts=True)
        sums[channels] += np.bincount(inverse, numbers[known], len(channels)) / places
        counts[channels] += 1
    return np.asarray(np.divide(sums, counts, out=np.full(found.count, np.nan), where=counts > 0))


def relative(numbers: Array) -> Array:
    """Numbers of one layer or tensor in units of their mean, so that those of several can be averaged."""
    known = numbers[np.isfinite(numbers)]
    mean = float(known.mean()) if len(known) else 0.0
    return numbers / mean if mean > 0 else numbers


def said(scores: Array, found: ChannelGroups, otherwise: str) -> Array:
    """The scores, if they say something of any channel that can be removed. Raises UsageError(otherwise) if not."""
    if found.free.any() and not np.isfinite(scores[found.free]).any():
        raise UsageError(otherwise)
    return scores
