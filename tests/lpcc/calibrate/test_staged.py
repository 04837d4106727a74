from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import parser

from lpcc.calibrate.staged import Staged
from lpcc.data import Dataset
from lpcc.errors import ModelError
from lpcc.graph import load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, with_outputs

_MODEL = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2] k = {1, 2}, bool yes = {1}>
{
    a = Add(x, k)
    b = Mul(a, a)
    c = If(yes) <then_branch = t () => (float[N,2] u) { u = Sub(b, x) },
                 else_branch = e () => (float[N,2] v) { v = Neg(a) }>
    d = Mul(c, k)
    y = Add(d, a)
}""")
_FEEDS = [{"x": np.random.default_rng(i).standard_normal((3, 2)).astype(np.float32)} for i in range(3)]


def test_halts_give_what_one_run_gives():
    names = ["a", "b", "c", "y"]
    session, staged = Session(with_outputs(_MODEL, names)), Staged(_MODEL, _FEEDS)
    expected = [session.run(feed, names) for feed in _FEEDS]
    for name in names:
        for value, run in zip(staged.values(name), expected, strict=True):
            np.testing.assert_allclose(value, run[name], rtol=1e-6)


def test_what_is_replaced_is_what_later_nodes_read():
    staged = Staged(_MODEL, _FEEDS)
    staged.replace("b", [value + 1 for value in staged.values("b")])
    staged.set_constant("k", np.asarray([10, 20], np.float32))
    for value, feed in zip(staged.values("y"), _FEEDS, strict=True):
        a = feed["x"] + [1, 2]  # made before the constant was changed
        np.testing.assert_allclose(value, (a * a + 1 - feed["x"]) * [10, 20] + a, rtol=1e-5)


def test_what_is_past_or_unknown_is_refused():
    staged = Staged(_MODEL, _FEEDS)
    staged.values("d")
    with pytest.raises(ModelError, match="no tensor `b`"):
        staged.values("b")  # nothing reads it any more
    with pytest.raises(ModelError, match="nonsense"):
        staged.values("nonsense")


def test_a_real_network_halts_at_every_layer(zoo: Any):
    graph = load(zoo.model("mlperf_resnet8_cifar10"))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    model = to_proto(graph)
    data = Dataset.from_arrays(zoo.calib("mlperf_resnet8_cifar10", 8), inputs=Session(model).inputs)
    feeds = [batch.feeds for batch in data.batches(4)]
    names = [node.outputs[0].name for node in graph.nodes if node.op == "Conv"]
    staged, session = Staged(model, feeds), Session(with_outputs(model, names), optimise=False)
    for name in names:
        np.testing.assert_allclose(staged.values(name)[1], session.run(feeds[1], [name])[name], rtol=1e-3, atol=1e-4)
