"""What `factorize` can be asked, and what it says to the rest."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import from_proto
from lpcc.passes import Factorize
from lpcc.pipeline import Context, Need, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,32,8,8] x) => (float[N,64,8,8] y)
<float[32,32,3,3] w1, float[64,32,1,1] w2, float[64,64,1,1] w3>
{
    [inner] c = Conv<pads = [1,1,1,1]>(x, w1)
    [sum] a = Add(c, x)
    [wide] e = Conv(a, w2)
    [point] y = Conv(e, w3)
}
"""
TARGET = Target.load("x86-avx2")


@pytest.fixture(scope="module")
def model():
    return read_model(NETWORK)


def images(model):
    values = np.random.default_rng(0).standard_normal((16, 32, 8, 8)).astype(np.float32)
    return Dataset.from_arrays({"x": values}, inputs=TensorSpec.inputs_of(model))


def run(model, **options):
    run_pipeline(from_proto(model), [Factorize(**options)], Context(target=TARGET, calibration=images(model)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": ("inner=0",)}, "a rank of 0 is not between 1 and 96"),
        ({"ranks": ("inner=97",)}, "a rank of 97 is not between 1 and 96"),
        ({"ranks": ("point=65",)}, "a rank of 65 is not between 1 and 64"),
        ({"ranks": ("inner=8x8",)}, "bmd takes 1 rank, not 2"),
        ({"ranks": ("inner=8",), "method": ("tucker2",)}, "tucker2 takes 2 ranks, not 1"),
        ({"ranks": ("inner",)}, "ranks takes layer=rank"),
        ({"ranks": ("inner=-3",)}, "ranks takes layer=rank"),
        ({"ranks": ("iner=4",)}, "the nearest are `inner`"),
        ({"ranks": ("inner=4",), "skip": ("inner",)}, "`inner` stays whole: it is in `skip`"),
        ({"ranks": ("sum=4",)}, "a Add has no weights to factorise"),
        ({"macs": 0.9, "skip": ("nowhere",)}, "no node of the graph is called"),
    ],
)
def test_wrong_at_the_model(model, options, message):
    with pytest.raises(UsageError, match=message) as told:
        run(model, **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "text",
    [
        "factorize",
        "factorize{macs=0.5 ratio=0.5}",
        "factorize{evbmf=true energy=0.9}",
        "factorize{method=vbmf macs=0.5}",
        "factorize{macs=1.5}",
        "factorize{speedup=0.5}",
        "factorize{energy=-1}",
        "factorize{max-drop=101}",
        "factorize{fit=both macs=0.5}",
        "factorize{rank=4}",
    ],
)
def test_wrong_in_itself(text):
    with pytest.raises(UsageError) as told:
        Pipeline.parse(text)
    assert "\n" not in str(told.value)


def test_text_form():
    text = "factorize{method=bmd,cpd macs=0.5 error=0.1 bn=false skip=a,b}"
    assert str(Pipeline.parse(str(Pipeline.parse(text)))) == str(Pipeline.parse(text))
    text = 'factorize{ranks="conv*=16","inner=8x12" method=tucker2}'
    (item,) = Pipeline.parse(text).passes
    assert item.ranks == ("conv*=16", "inner=8x12")


def test_a_target_and_images_are_asked_for(model):
    graph = from_proto(model)
    with pytest.raises(UsageError, match="needs calibration images"):
        run_pipeline(graph, [Factorize(macs=0.5)], Context(target=TARGET))
    with pytest.raises(UsageError, match="needs a target"):
        run_pipeline(graph, [Factorize(macs=0.5)], Context(calibration=images(model)))


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({"macs": 0.5}, {Need.CALIBRATION, Need.TARGET}),
        ({"macs": 0.5, "fit": "weights"}, {Need.TARGET}),
        ({"max_drop": 1.0, "fit": "weights"}, {Need.CALIBRATION, Need.TARGET}),
        ({"energy": 0.9}, {Need.CALIBRATION}),
        ({"energy": 0.9, "fit": "weights"}, set()),
        ({"ratio": 0.5, "fit": "weights"}, set()),
        ({"evbmf": True, "fit": "weights"}, set()),
        ({"ranks": ("inner=8",), "fit": "weights"}, set()),
    ],
)
def test_only_what_is_used_is_asked_for(model, options, needs):
    item = Factorize(**options)
    assert item.required == needs
    data = images(model) if Need.CALIBRATION in needs and "max_drop" not in options else None
    ctx = Context(target=TARGET if Need.TARGET in needs else None, calibration=data)
    if "max_drop" not in options:
        (record,) = run_pipeline(from_proto(model), [item], ctx)
        assert record.changes.rewrites or record.changes.refused


def test_max_drop_counts_classes(model):
    with pytest.raises(UsageError, match="max-drop counts classes, and no output says any: give `error`"):
        run(model, max_drop=1.0)
