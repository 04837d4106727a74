"""Prices of networks without some channels: what the cost model says of the network from which they are removed."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel, Totals
from lpcc.errors import UsageError
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.passes.prune import remove, unshare
from lpcc.passes.prune.prices import Prices
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.target import Target

TARGETS = (
    "x86-avx512-vnni",
    "arm-cortex-a72",
    "arm-cortex-a76/ncnn",
    "arm-cortex-m4",
    "ethos-u55-128",
    "eyeriss",
    "eie",
)
NETWORKS = {
    "cifar10_resnet20_jpegft": True,
    "squeezenet1_1_imagenet": True,
    "mobilenetv2_imagenet": True,
    "ppocr_mobile_v2_cls": True,
    "ultraface_rfb320": True,
    "fastestdet_coco": False,
}
"""By name whether only sizes change: the channel shuffle of the last one picks channels."""


def drawn(found, rng, share):
    """Channels of some groups, with something left everywhere."""
    gone = np.zeros(found.count, dtype=bool)
    for group in found.groups:
        if group.pinned is None and rng.random() < share:
            more = gone.copy()
            more[rng.permutation(group.channels)[: int(rng.integers(1, len(group) + 1))]] = True
            gone = gone if found.emptied(np.flatnonzero(more)) else more
    return gone


def really(graph, found, gone, target):
    """Cost of the network from which the channels are removed."""
    trial = clone(graph)
    remove(trial, found, np.flatnonzero(gone))
    annotate(trial)
    return CostModel(target).estimate(trial)


def check(graph, found, target, rng, *, questions):
    prices = Prices(graph, found, target)
    for share in np.linspace(0, 1, questions):
        gone = drawn(found, rng, share)
        price, cost = prices.price(gone), really(graph, found, gone, target)
        for part in fields(Totals):
            assert getattr(price, part.name) == getattr(cost, part.name), part.name
    return prices


@pytest.fixture(scope="session")
def prepared(zoo):
    """Function that gives a real network after the exact passes, and its channels."""

    def made(name):
        graph = load(zoo.model(name))
        run_pipeline(graph, Pipeline.parse("exact"), Context())
        unshare(graph)
        annotate(graph)
        return graph, channel_groups(graph)

    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks(prepared, name):
    graph, found = prepared(name)
    before = to_proto(graph).SerializeToString(deterministic=True)
    for target in TARGETS if name.startswith("cifar10") else TARGETS[:1]:
        prices = check(graph, found, Target.load(target), np.random.default_rng(0), questions=4)
        assert prices.is_quick == (NETWORKS[name] and not target.startswith(("ethos", "eie")))
    assert to_proto(graph).SerializeToString(deterministic=True) == before


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_networks(random_network, data):
    graph = from_proto(random_network(data.draw))
    if data.draw(st.booleans()):
        run_pipeline(graph, Pipeline.parse("exact"), Context())
    if data.draw(st.booleans()):
        unshare(graph)
    annotate(graph)
    found = channel_groups(graph)
    target = Target.load(data.draw(st.sampled_from(TARGETS[:4])))
    check(graph, found, target, np.random.default_rng(data.draw(st.integers(0, 99))), questions=3)


def two_layers(channels=16):
    """A network of two convolutions."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((channels, 3, 3, 3), (4, channels, 1, 1))]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "v"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(values, name) for values, name in zip(weights, "vw", strict=True)],
    )
    made = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    annotate(made)
    return made, channel_groups(made)


def test_which_channels_go_does_not_matter():
    graph, found = two_layers()
    group = next(group for group in found.groups if group.pinned is None)
    prices = Prices(graph, found, Target.load("x86-avx512-vnni"))
    first, second, more = (np.zeros(found.count, dtype=bool) for _ in range(3))
    first[group.channels[:4]] = second[group.channels[8:12]] = more[group.channels[:8]] = True
    assert prices.price(first) is prices.price(second)
    whole, few, fewer = (prices.price(gone) for gone in (np.zeros(found.count, dtype=bool), first, more))
    assert whole.macs > few.macs > fewer.macs
    assert whole.weight_bytes - few.weight_bytes == 4 * 4 * (27 + 4)
    assert prices.price(first) is few


def test_what_cannot_be_removed_has_no_price():
    graph, found = two_layers()
    group = next(group for group in found.groups if group.pinned is None)
    for name in ("x86-avx512-vnni", "eie"):
        prices = Prices(graph, found, Target.load(name))
        gone = np.zeros(found.count, dtype=bool)
        prices.price(gone)
        gone[group.channels] = True
        with pytest.raises(UsageError, match="no channels left"):
            prices.price(gone)
        with pytest.raises(UsageError, match="cannot be removed"):
            prices.price(~found.free)


def test_nodes_that_may_become_twins_are_removed_for_their_price(network):
    """Two shortcuts of one tensor: the runtime pads once where both pad alike, before or after channels go."""
    body = """(float[1,3,8,8] x) => (float[1,2,4,4] y, float[1,2,4,4] z)
    { c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) s = Slice(r, b, e, n, t) p = Pad(s, q)
      d = Conv<pads=[1,1,1,1], strides=[2,2]>(r, v) a = Add(d, p) f = Relu(a) y = Conv(f, k)
      i = Pad(s, j) g = Conv<pads=[1,1,1,1], strides=[2,2]>(r, u) h = Add(g, i) l = Relu(h) z = Conv(l, m) }"""
    rng = np.random.default_rng(0)
    normal = {name: rng.standard_normal(shape) for name, shape in {"w": (8, 3, 3, 3), "v": (12, 8, 3, 3)}.items()}
    normal |= {"u": rng.standard_normal((12, 8, 3, 3)), "k": rng.standard_normal((2, 12, 1, 1))}
    numbers = {"b": [0, 0], "e": [8, 8], "n": [2, 3], "t": [2, 2]}
    pads = {"q": [0, 2, 0, 0, 0, 2, 0, 0], "j": [0, 2, 0, 0, 0, 2, 0, 0]}
    made = {name: np.array(values, np.int64) for name, values in (numbers | pads).items()}
    graph = network(body, **normal, m=rng.standard_normal((2, 12, 1, 1)), **made)
    found = channel_groups(graph)
    prices = check(graph, found, Target.load(TARGETS[0]), np.random.default_rng(1), questions=6)
    assert not prices.is_quick
