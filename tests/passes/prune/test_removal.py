from __future__ import annotations

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.graph import clone, from_proto, to_proto
from lpcc.passes.prune import remove, zeroed
from lpcc.testing import assert_equivalent


def check(graph, found, channels):
    """Removed channels leave a valid model that computes what it would with them at zero."""
    smaller = clone(graph)
    remove(smaller, found, channels)
    after = to_proto(smaller)
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(to_proto(zeroed(graph, found, channels)), after, dims={"N": 2})
    sizes = {tensor.name: list(tensor.dims) for tensor in after.graph.initializer}
    for name, axes in found.kept(channels).items():
        for axis, places in axes.items() if name in sizes else ():
            assert sizes[name][axis] == places.sum() < len(places)


def check_random_network(random_network, data):
    graph = from_proto(random_network(data.draw))
    annotate(graph)
    found = channel_groups(graph)
    free = [group for group in found.groups if group.pinned is None]
    if not free:
        return
    for group in free[:6]:
        some = data.draw(st.lists(st.sampled_from(group.channels.tolist()), min_size=1, unique=True))
        if found.emptied(some) is None:
            check(graph, found, some)
    together = [int(group.channels[0]) for group in free]
    if found.emptied(together) is None:
        check(graph, found, together)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_networks(random_network, data):
    check_random_network(random_network, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_random_networks(random_network, data):
    check_random_network(random_network, data)
