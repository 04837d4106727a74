"""`learn-ranks`: what is needed stays, the goal is met, and nothing else of the model changes."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.equality import interface_change
from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes.factorize.learn_ranks import LearnRanks
from lpcc.pipeline import Context
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.search import Infeasible
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
net (float[N,4,8,8] x) => (float[N,6] y)
<float[8,4,3,1] a, float[16,8,1,3] b, float[16] bias, float[10,16,1,1] c, float[12,10,1,1] d, float[12,6] e>
{
    [first_bmd0] p = Conv <pads = [1,0,1,0]> (x, a)
    [first] q = Conv <pads = [0,1,0,1]> (p, b, bias)
    [on] r = Relu (q)
    [second_svd0] s = Conv (r, c)
    [second] t = Conv (s, d)
    [too] u = Relu (t)
    [pool] v = ReduceMean <keepdims = 0> (u, axes)
    [head] y = MatMul (v, e)
}
""".replace("float[12,6] e>", "float[12,6] e, int64[2] axes = {2,3}>")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the training extra is not installed")
RECIPE = LearnRanks(macs=0.5, epochs=8, batch=32)


def images(count=512, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)}


def context(model, **more):
    return Context(training=Dataset.from_arrays(images()), teacher=from_proto(model), **more)


def weight(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def changed(model, **arrays):
    """A model with other weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name, values in arrays.items():
        weight(copy, name).CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return copy


def with_faint(model, maker, reader, faint):
    """Some components as small noise; the others of one size."""
    rows = onnx.numpy_helper.to_array(weight(model, maker)).copy()
    columns = onnx.numpy_helper.to_array(weight(model, reader)).copy()
    for number in range(len(rows)):
        rows[number] /= np.linalg.norm(rows[number]) * (100 if number in faint else 1)
        columns[:, number] /= np.linalg.norm(columns[:, number])
    return changed(model, **{maker: rows, reader: columns})


def left(graph):
    annotate(graph)
    return sum(macs(graph, bind(graph)).values())


def channels(graph, name):
    return next(node for node in graph.nodes if node.name == name).inputs[1].shape[0]


def learnt(model, item, ctx=None):
    graph = from_proto(model)
    records = run_pipeline(graph, [item], ctx or context(model))
    return graph, records[0].changes


@needs_torch
def test_components_that_are_noise_go_and_the_others_stay():
    faint = {0, 2, 4, 5, 7}
    model = with_faint(read_model(NETWORK), "a", "b", faint)
    whole = left(from_proto(model))
    pair = 64 * (4 * 3 * 8 + 8 * 3 * 16)
    goal = (whole - pair * 5 / 8) / whole
    graph, changes = learnt(model, replace(RECIPE, macs=goal, skip=("second",)))
    assert channels(graph, "first_bmd0") == 3
    rows = next(node for node in graph.nodes if node.name == "first_bmd0").inputs[1].values
    before = onnx.numpy_helper.to_array(weight(model, "a"))
    for row, number in zip(rows, (1, 3, 6), strict=True):
        np.testing.assert_array_equal(row, before[number])
    assert changes.counts["rank learned"] == 2
    ours, theirs = Session(to_proto(graph)).run(images(64, 9))["y"], Session(model).run(images(64, 9))["y"]
    assert np.square(ours - theirs).mean() < 1e-3 * theirs.var()


@needs_torch
def test_what_counts_is_what_reaches_the_output_not_how_large_it_is():
    """Loud components whose sum the next layer does not see go; gates begin in the order of loudness."""
    model = read_model(NETWORK)
    b, c = (onnx.numpy_helper.to_array(weight(model, name)).copy() for name in ("b", "c"))
    b[:8, 5:], b[8:, :5] = 0, 0  # components from 5 on make channels from 8 on, which nobody needs
    b[8:, 5:] *= 3
    c[:, 8:] = 0
    model = changed(model, b=b, c=c)
    whole = left(from_proto(model))
    goal = (whole - 64 * (4 * 3 * 8 + 8 * 3 * 16) * 3 / 8) / whole
    graph, _ = learnt(model, replace(RECIPE, macs=goal, skip=("second",), epochs=12))
    kept = next(node for node in graph.nodes if node.name == "first_bmd0").inputs[1].values
    np.testing.assert_array_equal(kept, onnx.numpy_helper.to_array(weight(model, "a"))[:5])


@needs_torch
@pytest.mark.parametrize("goal", [0.3, 0.6, 0.9])
def test_the_goal_is_met_and_the_interface_stays(goal):
    model = read_model(NETWORK)
    graph, changes = learnt(model, replace(RECIPE, macs=goal, epochs=2))
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert interface_change(model, after) is None
    assert 0.8 * goal < left(graph) / left(from_proto(model)) <= goal
    assert "rank learned" in changes.counts


@needs_torch
def test_counts_are_multiples():
    graph, _ = learnt(read_model(NETWORK), replace(RECIPE, macs=0.6, multiple=4, epochs=1))
    assert channels(graph, "first_bmd0") in (4, 8)
    assert channels(graph, "second_svd0") in (4, 8, 10)


@needs_torch
def test_batch_norms_and_depthwise_layers_between_go_along():
    text = NETWORK.replace("float[16,8,1,3] b", "float[8,1,1,3] w, float[16,8,1,1] b").replace(
        "[first] q = Conv <pads = [0,1,0,1]> (p, b, bias)",
        "[norm] n = BatchNormalization (p, scale, shift, mean, var)\n"
        "    [first_cpd1] o = Conv <group = 8, pads = [0,1,0,1]> (n, w)\n"
        "    [first] q = Conv (o, b, bias)",
    )
    text = text.replace("float[16] bias", "float[16] bias, float[8] scale, float[8] shift, float[8] mean, float[8] var")
    model = read_model(text)
    graph, changes = learnt(model, replace(RECIPE, macs=0.5, epochs=2))
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    kept = channels(graph, "first_bmd0")
    assert kept < 8
    assert channels(graph, "first_cpd1") == kept
    assert len(next(node for node in graph.nodes if node.name == "norm").inputs[1].values) == kept
    assert left(graph) <= 0.5 * left(from_proto(model))
    assert changes.counts["rank learned"] == 5
    assert np.isfinite(Session(after).run(images(4))["y"]).all()


@needs_torch
def test_training_that_fails_leaves_the_network_as_it_is():
    model = read_model(NETWORK)
    broken = images()
    broken["x"][300:] = 1e38
    graph = from_proto(model)
    annotate(graph)
    before = to_proto(graph)
    changes = RECIPE.run(graph, Context(training=Dataset.from_arrays(broken), teacher=from_proto(model)))
    assert not changes
    assert "training stopped" in changes.refused[0].reason
    assert to_proto(graph) == before


@needs_torch
def test_the_seed_decides():
    model = read_model(NETWORK)
    short = replace(RECIPE, epochs=1)
    first, same = (to_proto(learnt(model, replace(short, seed=3))[0]) for _ in range(2))
    assert first == same
    assert to_proto(learnt(model, replace(short, seed=4))[0]) != first


@needs_torch
def test_a_goal_out_of_reach_is_told_before_training():
    ctx = context(read_model(NETWORK))
    ctx.progress = lambda what, _done, _total: pytest.fail(what)
    with pytest.raises(Infeasible, match=r"learn-ranks: macs=0\.01 cannot be met: the least possible is macs=0\.1"):
        LearnRanks(macs=0.01).run(_typed(NETWORK), ctx)


@needs_torch
def test_layers_that_went_back_take_nothing_from_the_others():
    """What the guard has put back keeps its components; the other layer loses as much as without."""
    model = read_model(NETWORK)
    ctx = context(model)
    short = replace(RECIPE, macs=0.3, epochs=1)
    learnt(model, short, ctx)
    ctx.returned = frozenset({"first"})
    graph, _ = learnt(model, replace(short, skip=("first",)), ctx)
    assert channels(graph, "first_bmd0") == 8
    assert channels(graph, "second_svd0") >= 2


def _typed(text):
    graph = from_proto(read_model(text))
    annotate(graph)
    return graph


@pytest.mark.parametrize(
    ("text", "item", "reason"),
    [
        (NETWORK, LearnRanks(macs=1.0), "macs=1 is met already"),
        (
            NETWORK.replace("[first]", "[act] p2 = Relu (p)\n    [first]")
            .replace("(p, b, bias)", "(p2, b, bias)")
            .replace("[second]", "[act2] s2 = Relu (s)\n    [second]")
            .replace("(s, d)", "(s2, d)"),
            LearnRanks(),
            "no two layers have rank components between them that could go: `factorize` first",
        ),
    ],
)
def test_what_there_is_nothing_to_do_for_is_left_alone(text, item, reason):
    graph = _typed(text)
    before = to_proto(graph)
    changes = item.run(graph, context(read_model(text)))
    assert not changes
    assert [refusal.reason for refusal in changes.refused] == [reason]
    assert to_proto(graph) == before


def test_without_a_teacher_there_is_nothing_to_learn():
    changes = LearnRanks().run(_typed(NETWORK), Context(training=Dataset.from_arrays(images(8))))
    assert [refusal.reason for refusal in changes.refused] == ["no pass before it lost anything: there is no teacher"]


def test_a_sketch_has_as_many_components_and_needs_no_images():
    graph = _typed(NETWORK)
    whole = left(graph)
    LearnRanks(macs=0.5).sketch(graph, Context())
    assert 0.4 < left(graph) / whole <= 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "sgd"}, "gates are trained by adam or adamw"),
        ({"metric": "top1"}, "no images are held out"),
        ({"patience": 3}, "no images are held out"),
        ({"learning_rate": None}, "training option `learning-rate` takes a number"),
        ({"holdout": 0.1}, "training option `holdout` takes"),
        ({"epochs": 0}, "training option `epochs` takes"),
    ],
)
def test_options_that_say_nothing_here_are_errors(options, message):
    with pytest.raises(UsageError, match=message):
        LearnRanks(**options)
