"""`distill`: in a pipeline, behind a pass that loses something, under the guard."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import onnx
import pytest

import lpcc
from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Distill
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
net (float[N,32,8,8] x) => (float[N,10] y)
<float[32,32,3,3] w1, float[32] b1, float[32,32,3,3] w2, float[32] b2, float[10,32] w3, float[10] b3>
{
    [first] c = Conv <pads = [1,1,1,1]> (x, w1, b1)
    [active] r = Relu (c)
    [second] d = Conv <pads = [1,1,1,1]> (r, w2, b2)
    [sum] s = Add (d, r)
    [on] t = Relu (s)
    [pool] g = GlobalAveragePool (t)
    [flat] f = Flatten (g)
    [head] y = Gemm <transB = 1> (f, w3, b3)
}
"""
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the training extra is not installed")
BITS = "quantize{ranges=minmax weight-bits=2 min-work=0}"


def images(count=256, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 32, 8, 8)).astype(np.float32)}


def context(model, **more):
    data = Dataset.from_arrays(images())
    return Context(
        target=Target.load("x86-avx512-vnni"), calibration=data, training=data, teacher=from_proto(model), **more
    )


def noise(model, other):
    unseen = images(64, 9)
    ours, theirs = (Session(each, optimise=False).run(unseen)["y"] for each in (other, model))
    return float(((ours - theirs) ** 2).mean())


def test_without_torch_the_pass_has_its_text_form():
    text = "quantize{weight-bits=4},distill{epochs=3 loss=kd,hint*0.1 labels=true}"
    assert str(Pipeline.parse(text)) == text


@needs_torch
def test_it_asks_for_images():
    with pytest.raises(
        UsageError, match="pass `distill` needs images to train on, with or without labels: give --train"
    ):
        run_pipeline(from_proto(read_model(NETWORK)), [Distill()], Context())


def test_options_are_checked():
    with pytest.raises(UsageError, match="option `epochs` takes a whole number"):
        Pipeline.parse("distill{epochs=0}")


@needs_torch
def test_losses_are_checked_with_the_pipeline():
    with pytest.raises(UsageError, match="unknown loss `kdd`; did you mean kd"):
        Pipeline.parse("quantize,distill{loss=kdd}")


def test_a_loop_of_ones_own_has_its_own_losses():
    with pytest.raises(UsageError, match="mine:train: a loop of your own has its own losses"):
        Pipeline.parse('distill{loss=kd trainer="mine:train"}')


@pytest.fixture(scope="module")
def model():
    return read_model(NETWORK)


@needs_torch
class TestTraining:
    def test_two_bits_are_trained_and_stay_two_bits(self, model):
        ctx = context(model)
        graph = from_proto(model)
        run_pipeline(graph, Pipeline.parse(BITS), ctx)
        rounded = to_proto(graph)
        (record,) = run_pipeline(
            graph, [Distill(epochs=6, batch=32, learning_rate=0.02, loss=("outputs",), metric="loss")], ctx
        )
        trained = to_proto(graph)
        assert {rewrite.what for rewrite in record.changes.rewrites} == {"weights trained"}
        assert noise(model, trained) < 0.8 * noise(model, rounded)
        assert [node.op_type for node in trained.graph.node] == [node.op_type for node in rounded.graph.node]
        types = [(t.name, t.data_type, t.dims) for t in rounded.graph.initializer]
        assert [(t.name, t.data_type, t.dims) for t in trained.graph.initializer] == types
        assert any(t.data_type == onnx.TensorProto.INT2 for t in trained.graph.initializer)

    def test_under_the_guard(self, model):
        pipeline = f"exact,{BITS},distill{{epochs=3 learning-rate=0.02 loss=outputs metric=loss}}"
        given = {"target": "x86-avx512-vnni", "calib": images(32), "min_sqnr": 0.0, "min_agreement": 0.0}
        plain = lpcc.optimize(model, pipeline=f"exact,{BITS}", **given)
        result = lpcc.optimize(model, pipeline=pipeline, train=images(), **given)
        assert noise(model, result.model) < noise(model, plain.model)
        last = result.report.passes[-1]
        assert last.name == "distill"
        assert last.counts

    def test_its_seed_counts_and_else_that_of_the_command(self, model):
        def trained(text, seed):
            graph = from_proto(model)
            run_pipeline(graph, Pipeline.parse(f"{BITS},{text}"), context(model, seed=seed))
            return to_proto(graph).SerializeToString()

        short = "distill{epochs=1 loss=outputs metric=loss holdout=0%s}"
        own, other = trained(short % " seed=5", 0), trained(short % "", 0)
        assert own != other
        assert own == trained(short % " seed=5", 1)
        assert trained(short % "", 5) == own

    def test_without_a_teacher_nothing_is_trained(self, model):
        ctx = context(model)
        ctx.teacher = None
        graph = from_proto(model)
        (record,) = run_pipeline(graph, [Distill(epochs=1)], ctx)
        assert not record.changes
        assert "there is no teacher" in record.changes.refused[0].reason
        assert list(to_proto(graph).graph.initializer) == list(model.graph.initializer)

    def test_what_is_as_good_as_its_teacher_stays(self, model):
        graph = from_proto(model)
        (record,) = run_pipeline(graph, [Distill(epochs=1, metric="loss", loss=("outputs",))], context(model))
        assert not record.changes
        assert "no epoch was better" in record.changes.refused[0].reason
        assert list(to_proto(graph).graph.initializer) == list(model.graph.initializer)

    def test_a_plan_trains_nothing(self, model):
        from lpcc.driver import plan

        report = plan(
            model, target="x86-avx512-vnni", pipeline=f"exact,{BITS},distill", calib=images(8), train=images(8)
        )
        assert not report.passes[-1].counts

    def test_images_that_no_pass_trains_on_are_mentioned(self, model):
        result = lpcc.optimize(model, target="x86-avx512-vnni", pipeline="exact", train=images(8))
        assert "no pass of the pipeline trains: --train has no effect" in result.report.notes
