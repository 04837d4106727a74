"""`factorize` on networks with inputs that are not just images, and with layers in bodies of other nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Factorize
from lpcc.passes.factorize import factorize
from lpcc.pipeline import Context
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing.golden import read_model

LAYERS = """<float[32,32,3,3] w1, float[32,32,3,3] w2, float[6,32] w3>
{
    [scaled] s = Mul(x, t)
    [inner] c = Conv<pads = [1,1,1,1]>(s, w1)
    [on] r = Relu(c)
    [wide] d = Conv<pads = [1,1,1,1]>(r, w2)
    [pool] p = GlobalAveragePool(d)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w3)
}
"""
TARGET = Target.load("x86-avx2")


def network(inputs, batch, layers=LAYERS):
    return read_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[{batch},6] y) {layers}')


def pictures(count):
    return np.random.default_rng(0).standard_normal((count, 32, 8, 8)).astype(np.float32)


def run(model, arrays, **options):
    data = Dataset.from_arrays(arrays, inputs=TensorSpec.inputs_of(model))
    graph = from_proto(model)
    (record,) = run_pipeline(graph, [Factorize(**options)], Context(target=TARGET, calibration=data))
    onnx.checker.check_model(to_proto(graph), full_check=True)
    return record.changes


@pytest.mark.parametrize("options", [{"max_drop": 20.0}, {"error": 0.3}, {"ranks": ("inner=8",)}])
def test_an_input_that_is_one_number(options):
    model = network("float t, float[1,32,8,8] x", 1)
    changes = run(model, {"t": np.ones(40, np.float32), "x": pictures(40)[:, None]}, **options)
    assert changes.rewrites


def test_what_fills_up_a_fixed_batch_does_not_count(monkeypatch):
    """Of 164 images 128 are fitted to: 36 are kept apart, the last four of them in a batch of 32."""
    seen = []
    own = factorize.compare_runs

    def spied(runs, *more):
        runs = list(runs)
        seen.append([(count, len(wanted["y"]), len(found["y"])) for count, wanted, found in runs])
        return own(runs, *more)

    monkeypatch.setattr(factorize, "compare_runs", spied)
    text = LAYERS.replace("[scaled] s = Mul(x, t)", "[scaled] s = Neg(x)")
    run(network("float[32,32,8,8] x", 32, text), {"x": pictures(164)}, max_drop=20.0)
    assert seen[0] == [(32, 32, 32), (4, 4, 4)]


def test_layers_in_bodies_are_left_alone():
    text = """<float[32,32,3,3] w1, float[32,32,3,3] w2, float[6,32] w3, bool c = {1}>
    {
        [inner] d = Conv<pads = [1,1,1,1]>(x, w1)
        [either] e = If(c) <
            then_branch = t () => (float[N,32,8,8] a) { [nested] a = Conv<pads = [1,1,1,1]>(d, w2) },
            else_branch = f () => (float[N,32,8,8] b) { b = Relu(d) }>
        [pool] p = GlobalAveragePool(e)
        [flat] q = Flatten(p)
        [head] y = Gemm<transB = 1>(q, w3)
    }
    """
    changes = run(network("float[N,32,8,8] x", "N", text), {"x": pictures(24)}, ranks=("inner=8",))
    assert {refusal.node: refusal.reason for refusal in changes.refused} == {
        "nested": "it stands in a body of If, Loop or Scan"
    }
    assert {each.node for each in changes.rewrites} == {"inner"}


def test_only_what_layers_to_cut_read_is_summed_up(monkeypatch):
    """Ranks that are given need no look at what the others read."""
    asked = []
    own = factorize.sums_of

    def spied(graph, readings, *more):
        asked.append([reading.name for reading in readings])
        return own(graph, readings, *more)

    monkeypatch.setattr(factorize, "sums_of", spied)
    text = LAYERS.replace("[scaled] s = Mul(x, t)", "[scaled] s = Neg(x)")
    model = network("float[N,32,8,8] x", "N", text)
    run(model, {"x": pictures(24)}, ranks=("inner=8",))
    assert asked == [["inner"]]
