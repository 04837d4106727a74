from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc import edit
from lpcc.analysis.groups import channel_groups
from lpcc.data import Dataset
from lpcc.graph import clone, to_proto
from lpcc.passes.prune import mending
from lpcc.passes.prune.mending import images_measured, prune
from lpcc.passes.prune.removal import remove
from lpcc.passes.reconstruct.apart import images_apart
from lpcc.pipeline import Changes, Context
from lpcc.runtime import Session, TensorSpec

_RNG = np.random.default_rng(6)


def normal(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


X = normal(60, 2, 5, 5)
BODY = """(float[N,2,5,5] x) => (float[N,3] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) n = BatchNormalization(c, g, h, m, s) t = Relu(n)
      d = Conv(t, k) e = Add(t, d) z = Relu(e) f = Flatten(z) y = Gemm(f, u, b) }"""


@pytest.fixture
def net(network):
    def of(batch="N"):
        rng = np.random.default_rng(0)
        weights = {"w": (8, 2, 1, 1), "v": (8, 8, 1, 1), "k": (8, 8, 1, 1), "u": (200, 3), "b": (3,)}
        drawn = {name: rng.standard_normal(shape) for name, shape in weights.items()}
        norm = {name: rng.standard_normal(8) + 3 for name in "ghm"}
        return network(BODY.replace("[N,", f"[{batch},"), **drawn, **norm, s=np.full(8, 9.0))

    return of


def data_of(graph, count=60):
    return Dataset.from_arrays({"x": X[:count]}, inputs=TensorSpec.inputs_of(to_proto(graph)))


def pruned(graph, repair, data, images=1000):
    found = channel_groups(graph)
    channels = np.concatenate([found.labels["a"][1][[0, 3]], found.labels["t"][1][[1, 2]]])
    made, changes = clone(graph), Changes()
    prune(made, found, channels, repair, Context(calibration=data), images, changes)
    onnx.checker.check_model(to_proto(made), full_check=True)
    return made, changes


def error(graph, other, data):
    one, two, total, signal = Session(to_proto(graph)), Session(to_proto(other)), 0.0, 0.0
    for batch in data.batches(4):
        expected, found = one.run(batch.feeds)["y"].astype(float), two.run(batch.feeds)["y"]
        total += float(np.square(found - expected).sum())
        signal += float(np.square(expected).sum())
    return total / signal


@pytest.mark.parametrize("batch", ["N", "1", "16"])
def test_repairs_are_better_than_none(net, batch):
    graph = net(batch)
    data = data_of(graph)
    errors = {repair: error(graph, pruned(graph, repair, data)[0], data) for repair in ("none", "local", "layerwise")}
    assert max(errors["layerwise"], errors["local"]) < 0.3 * errors["none"]


@pytest.mark.parametrize("batch", ["N", "1", "16"])
def test_all_batches_come_to_the_same(net, batch):
    """Within rounding, and the one image in eight that fills up a batch."""
    data = data_of(net())
    expected = Session(to_proto(pruned(net(), "layerwise", data)[0])).run({"x": X})["y"]
    graph = net(batch)
    made = pruned(graph, "layerwise", data_of(graph))[0]
    session = Session(to_proto(made))
    found = [batch.valid(session.run(batch.feeds)["y"]) for batch in data_of(graph).batches(4)]
    assert np.abs(np.concatenate(found) - expected).max() < 0.02 * np.abs(expected).max()


def test_what_was_done_is_said(net, monkeypatch):
    monkeypatch.setattr(mending, "closest", lambda original, graphs, feeds: len(graphs) - 1)
    graph = net()
    assert pruned(graph, "none", data_of(graph))[1].rewrites == []
    for repair, what in (("bias", "bias made up for means"), ("local", "refitted"), ("layerwise", "refitted in order")):
        rewrites = pruned(graph, repair, data_of(graph))[1].rewrites
        assert {rewrite.what for rewrite in rewrites} == {what}
        mended = {rewrite.node for rewrite in rewrites}
        assert mended & {"c", "d", "y"} if repair == "layerwise" else {"c", "d", "y"} <= mended


def test_without_images_nothing_is_mended(net):
    graph = net()
    found = channel_groups(graph)
    channels = found.labels["a"][1][[0, 3]]
    one, two, changes = clone(graph), clone(graph), Changes()
    prune(one, found, channels, "layerwise", Context(), 1000, changes)
    remove(two, found, channels)
    assert to_proto(one) == to_proto(two)
    assert changes.rewrites == []


def test_the_original_is_not_changed(net):
    graph = net()
    before = to_proto(graph).SerializeToString(deterministic=True)
    pruned(graph, "layerwise", data_of(graph))
    assert to_proto(graph).SerializeToString(deterministic=True) == before


def test_the_same_twice(net):
    graph = net()
    one, two = (to_proto(pruned(graph, "layerwise", data_of(graph))[0]) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_refitted_in_order_only_where_that_is_closer(net, monkeypatch):
    def worse(original, graph, *_):
        """Weights of zeros are no repair."""
        node = next(node for node in graph.nodes if node.outputs[0].name == "y")
        with edit.Edit(graph) as e:
            e.replace_input(node, 1, e.constant("zeros", np.zeros_like(node.inputs[1].values)))
        return ["y"]

    monkeypatch.setattr(mending, "refit_layers", worse)
    graph = net()
    made, changes = pruned(graph, "layerwise", data_of(graph))
    assert {rewrite.what for rewrite in changes.rewrites} == {"refitted"}
    assert made.tensors()["u"].values.any()


def test_nan_is_not_closest(net, monkeypatch):
    def broken(original, graph, *_):
        node = next(node for node in graph.nodes if node.outputs[0].name == "y")
        with edit.Edit(graph) as e:
            e.replace_input(node, 1, e.constant("nan", np.full_like(node.inputs[1].values, np.nan)))
        return ["y"]

    monkeypatch.setattr(mending, "refit_layers", broken)
    graph = net()
    made, _ = pruned(graph, "layerwise", data_of(graph))
    assert np.isfinite(Session(to_proto(made)).run({"x": X})["y"]).all()


@pytest.mark.parametrize(
    ("count", "most", "used"),
    [(1, 1000, 1), (4, 1000, 4), (5, 1000, 4), (8, 1000, 7), (9, 1000, 8), (60, 1000, 48), (60, 40, 32), (60, 2, 2)],
)
@pytest.mark.parametrize("batch", ["N", "1", "7", "16"])
def test_images_kept_apart_are_others(net, count, most, used, batch):
    graph = net(batch)
    data = data_of(graph, count)
    mine = images_measured(data, most, "layerwise")
    assert len(mine) == used
    assert len(images_measured(data, most, "local")) == min(count, most)
    apart = np.concatenate([feeds["x"] for feeds in images_apart(data, mine, most)])
    shown = {image.tobytes() for image in X[:used]}
    judged = {image.tobytes() for image in apart}
    assert judged <= {image.tobytes() for image in X[: min(count, most)]}
    if batch in ("N", "1"):
        rest = {image.tobytes() for image in X[used : min(count, most)]}
        assert judged == (rest or shown)
    elif judged & shown:  # only where no whole batch is left over
        assert -(-used // int(batch)) >= -(-min(count, most) // int(batch))


def test_two_nodes_that_go_by_one_name(net):
    """Weights are taken over from the node that makes the same tensor."""
    graph = net()
    nodes = {node.outputs[0].name: node for node in graph.nodes}
    nodes["r"].name = "c"
    nodes["z"].name = "y"
    data = data_of(graph)
    made, _ = pruned(graph, "layerwise", data)
    named, _ = pruned(net(), "layerwise", data)
    assert error(graph, made, data) == pytest.approx(error(graph, named, data), rel=1e-6)


@pytest.mark.parametrize("repair", ["bias", "local", "layerwise"])
@pytest.mark.parametrize("count", [1, 3])
def test_few_images(net, repair, count):
    graph = net()
    made, _ = pruned(graph, repair, data_of(graph, count))
    assert np.isfinite(Session(to_proto(made)).run({"x": X})["y"]).all()


def test_a_shared_bias_becomes_two(network):
    body = """(float[N,2,5,5] x) => (float[N,4,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v, b) d = Conv(r, k, b) e = Mul(c, d) t = Relu(e) y = Conv(t, u, p) }"""
    graph = network(
        body,
        w=normal(8, 2, 1, 1),
        v=normal(4, 8, 1, 1),
        k=normal(4, 8, 1, 1),
        b=normal(4),
        u=normal(4, 4, 1, 1),
        p=normal(4),
    )
    found = channel_groups(graph)
    data = data_of(graph)
    made = clone(graph)
    prune(made, found, found.labels["a"][1][[0, 1, 2]], "layerwise", Context(calibration=data), 1000, Changes())
    biases = {node.outputs[0].name: node.inputs[2] for node in made.nodes if node.op == "Conv" and len(node.inputs) > 2}
    assert len({tensor.name for tensor in biases.values()}) == 3
    plain = clone(graph)
    remove(plain, found, found.labels["a"][1][[0, 1, 2]])
    assert error(graph, made, data) < error(graph, plain, data)
