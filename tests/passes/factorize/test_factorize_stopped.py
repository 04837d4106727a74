"""Ctrl-C in the middle of `factorize`: what is done by then is kept, whatever it was doing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Factorize
from lpcc.passes.factorize import fitting
from lpcc.pipeline import Context
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,32,8,8] x) => (float[N,6] y) <float[32,32,3,3] w1, float[32,32,3,3] w2, float[6,32] w3>
{
    [inner] c = Conv<pads = [1,1,1,1]>(x, w1)
    [on] r = Relu(c)
    [wide] d = Conv<pads = [1,1,1,1]>(r, w2)
    [pool] p = GlobalAveragePool(d)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w3)
}
"""


def run(progress=lambda *_step: None, **options):
    model = read_model(NETWORK)
    pictures = np.random.default_rng(0).standard_normal((40, 32, 8, 8)).astype(np.float32)
    data = Dataset.from_arrays({"x": pictures}, inputs=TensorSpec.inputs_of(model))
    graph, ctx = from_proto(model), Context(target=Target.load("x86-avx2"), calibration=data, progress=progress)
    (record,) = run_pipeline(graph, [Factorize(bn=False, **options)], ctx)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    return to_proto(graph), record.changes


def pressed(where, when):
    """A progress at which Ctrl-C is pressed once."""
    told = []

    def progress(what, done, _total):
        if (what, done) == (where, when) and not told:
            told.append(what)
            raise KeyboardInterrupt

    return progress


def test_while_layers_are_fitted_in_order():
    """Each has been fitted by itself then, and that is what counts."""
    ranks = ("inner=8", "wide=8")
    stopped, changes = run(pressed("factorise layers", 1), ranks=ranks)
    alone, _ = run(ranks=ranks, repair="none")
    assert stopped.SerializeToString(deterministic=True) == alone.SerializeToString(deterministic=True)
    assert {each.node for each in changes.rewrites} == {"inner", "wide"}


def test_while_the_first_are_fitted_by_themselves(monkeypatch):
    own, calls = fitting.decompose, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(fitting, "decompose", stopping)
    _, changes = run(ranks=("inner=8", "wide=8"))
    assert {each.node for each in changes.rewrites} == {"inner"}
    assert [(refusal.node, refusal.reason) for refusal in changes.refused] == [("wide", "stopped before its turn")]
    (note,) = changes.notes
    assert note.startswith("factorize was interrupted: 1 of ")


@pytest.mark.parametrize("when", [0, 5])
def test_while_the_largest_error_is_looked_for(when):
    stopped, changes = run(pressed("look for the largest error", when), max_drop=100.0)
    assert bool(changes.rewrites) == (when > 0)
    assert len(stopped.graph.node) > 6 or not changes.rewrites
