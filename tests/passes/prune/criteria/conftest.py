"""Small networks with given weights, and a real one that criteria prune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper, parser

from lpcc.analysis.groups import ChannelGroups, channel_groups
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes.prune import unshare, zeroed
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.quality.noise import noise_of
from lpcc.runtime import Session, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """A graph whose channels are scored."""

    graph: gs.Graph
    found: ChannelGroups

    def scores(self, criterion: Any, ctx: Context | None = None) -> Array:
        return criterion.scores(self.graph, self.found, ctx or Context())

    def of(self, criterion: Any, tensor: str, ctx: Context | None = None, axis: int = 1) -> Array:
        """The scores of the channels along an axis of a tensor."""
        return self.scores(criterion, ctx)[self.found.labels[tensor][axis]]


def _subject(body: str, opset: int = 17, /, **weights: Any) -> Subject:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g {body}')
    for name, values in weights.items():
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    graph = from_proto(model)
    annotate(graph)
    return Subject(graph, channel_groups(graph))


@pytest.fixture(scope="session")
def subject() -> Callable[..., Subject]:
    """Of the body of a graph in ONNX's text format, an opset, and initialisers by name."""
    return _subject


@dataclass(frozen=True)
class Real(Subject):
    """A real network, with images."""

    data: Dataset
    feeds: dict[str, Array]

    @cached_property
    def _expected(self) -> dict[str, Array]:
        return Session(to_proto(self.graph)).run(self.feeds)

    def noise(self, channels: Array) -> float:
        """How far the outputs are off without these channels."""
        pruned = Session(to_proto(zeroed(self.graph, self.found, channels)))
        return noise_of([(self._expected, pruned.run(self.feeds))])

    def ends(self, scores: Array) -> tuple[float, float]:
        """The noise without the quarter of the lowest scores of a free group, and of the highest, summed over groups.

        Of one group at a time: without a quarter of all channels nothing is left of a network, whichever they are.
        """
        low, high = 0.0, 0.0
        for group in self.found.groups:
            if group.pinned is None:
                assert np.isfinite(scores[group.channels]).all(), group
                order = group.channels[np.argsort(scores[group.channels], kind="stable")]
                low += self.noise(order[: len(order) // 4])
                high += self.noise(order[-(len(order) // 4) :])
        return low, high

    def context(self) -> Context:
        return Context(calibration=self.data)


@pytest.fixture(scope="session")
def resnet20(zoo) -> Real:
    """ResNet-20 of CIFAR-10 with its batch norms; 64 images for criteria and 32 others to judge."""
    name = "cifar10_resnet20_jpegft"
    graph = load(zoo.model(name))
    annotate(graph)
    run_pipeline(
        graph,
        Pipeline.parse("freeze-inputs,lift-constants,fold-constants,resolve-shapes,fold-constants,resolve-shapes"),
        Context(),
    )
    unshare(graph)
    annotate(graph)
    data = Dataset.from_arrays(zoo.calib(name, 64), inputs=TensorSpec.inputs_of(to_proto(graph)))
    feeds, _ = zoo.eval(name, 32)
    return Real(graph, channel_groups(graph), data, feeds)


@pytest.fixture(scope="session")
def prepared(zoo) -> Callable[[str], Subject]:
    """A network of the zoo as `exact` leaves it, by name."""

    def prepare(name: str) -> Subject:
        graph = load(zoo.model(name))
        annotate(graph)
        run_pipeline(graph, Pipeline.parse("exact"), Context())
        unshare(graph)
        annotate(graph)
        return Subject(graph, channel_groups(graph))

    return prepare
