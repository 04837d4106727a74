"""What holds of the scores of any network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.passes.prune.criteria.activations import Energy, ZeroShare
from lpcc.passes.prune.criteria.control import Random
from lpcc.passes.prune.criteria.propagation import Propagated
from lpcc.passes.prune.criteria.weights import L1, L2, BatchNormScale, GeometricMedian
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec

CRITERIA = (L1(), L2(), GeometricMedian(), BatchNormScale(), ZeroShare(), Energy(), Propagated(), Random())


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_scores_are_numbers_from_zero(random_network, criterion, data):
    graph = from_proto(random_network(data.draw))
    annotate(graph)
    found = channel_groups(graph)
    specs = TensorSpec.inputs_of(to_proto(graph))
    rng = np.random.default_rng(0)
    images = {
        spec.name: rng.standard_normal([4, *(size if isinstance(size, int) else 2 for size in spec.shape[1:])])
        for spec in specs
    }
    arrays = {name: values.astype(np.float32) for name, values in images.items()}
    ctx = Context(calibration=Dataset.from_arrays(arrays, inputs=specs))
    try:
        scores = criterion.scores(graph, found, ctx)
    except UsageError:
        if criterion.name in ("l1", "l2"):  # channels that Pad adds have no filters
            lines = [
                each.makes for each in found.layers if each.makes is not None and each.inputs[1] in found.constants
            ]
            assert not any(found.free[line].any() for line in lines)
        else:  # nothing of a free channel has a norm, is ever zero, differs, has others, or reaches an output
            assert criterion.name in ("bn-scale", "apoz", "energy", "nisp", "geometric-median")
        return
    assert scores.shape == (found.count,)
    assert scores.dtype == np.float64
    assert not np.isinf(scores).any()
    assert not (scores < 0).any()
    np.testing.assert_array_equal(criterion.scores(clone(graph), found, ctx), scores)
    if criterion.name in ("l1", "l2"):
        for layer in found.layers:
            if layer.makes is not None and layer.inputs[1] in found.constants:
                assert np.isfinite(scores[layer.makes]).all(), layer
