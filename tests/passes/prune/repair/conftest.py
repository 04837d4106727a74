"""Networks that lose channels and are repaired, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc.analysis.groups import ChannelGroups, channel_groups
from lpcc.data import Dataset
from lpcc.graph import clone, to_proto
from lpcc.passes.prune import remove
from lpcc.passes.prune.repair import readings, refit_biases, refit_layers, refit_readers
from lpcc.passes.reconstruct import sums_of
from lpcc.pipeline import Context
from lpcc.runtime import Session, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Patient:
    """A network, some of its channels, and images."""

    graph: gs.Graph
    found: ChannelGroups
    channels: Array
    data: Dataset

    def local(self, fit: Callable[..., list[str]] = refit_readers) -> tuple[gs.Graph, list[str]]:
        """What is left, refitted layer by layer; the names of the layers that were."""
        layers = readings(self.graph, self.found)
        sums = sums_of(self.graph, [layer for layer, _ in layers.values()], self.data, Context())
        pruned = self.cut()
        return pruned, fit(pruned, self.found, self.channels, layers, sums)

    def biases(self) -> tuple[gs.Graph, list[str]]:
        return self.local(refit_biases)

    def layerwise(self) -> tuple[gs.Graph, list[str]]:
        """What is left, refitted in order."""
        pruned = self.cut()
        batches = list(self.data.batches(8))
        return pruned, refit_layers(self.graph, pruned, self.found, self.channels, batches, Context())

    def cut(self) -> gs.Graph:
        """What is left."""
        pruned = clone(self.graph)
        remove(pruned, self.found, self.channels)
        return pruned

    def error(self, graph: gs.Graph) -> float:
        """Largest difference of the outputs to the whole network's, relative to their magnitude, over all images."""
        worst = 0.0
        whole, other = Session(to_proto(self.graph)), Session(to_proto(graph))
        for batch in self.data.batches(8):
            for name, expected in whole.run(batch.feeds).items():
                difference = np.abs(other.run(batch.feeds)[name].astype(float) - expected)
                worst = max(worst, float(difference.max()) / float(np.abs(expected).max()))
        return worst


def _admit(graph: gs.Graph, tensor: str, places: Sequence[int], axis: int = 1, **images: Array) -> Patient:
    found = channel_groups(graph)
    channels = found.labels[tensor][axis][list(places)]
    assert found.free[channels].all(), found.reasons
    data = Dataset.from_arrays(images, inputs=TensorSpec.inputs_of(to_proto(graph)))
    return Patient(graph, found, channels, data)


class Admission:
    """Makes patients."""

    of = Patient
    __call__ = staticmethod(_admit)


@pytest.fixture(scope="session")
def patient() -> Admission:
    """Of a graph, a tensor and which of its channels go (along an axis), and images by name of the input."""
    return Admission()


@pytest.fixture(scope="session")
def values() -> Callable[[gs.Graph, str], Array]:
    """The values of a constant of a graph, by its name."""
    return lambda graph, name: np.asarray(graph.tensors()[name].values)
