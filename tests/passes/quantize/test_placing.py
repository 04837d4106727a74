"""Which layers stay in float: by the prices of the target, and by what the user asks for."""

from __future__ import annotations

import pytest

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import TensorSpec, count_kernels, optimised
from lpcc.target import Target
from lpcc.testing.golden import read_model

CHAIN = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,96,96] x) => (float[N,64,24,24] y)
<float[16,3,3,3] w1, float[64,16,3,3] w2, float[64,64,3,3] w3>
{
    stem = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w1)
    r1 = Relu(stem)
    body = Conv<pads = [1,1,1,1], strides = [2,2]>(r1, w2)
    r2 = Relu(body)
    last = Conv<pads = [1,1,1,1]>(r2, w3)
    y = Relu(last)
}
"""


def placed(context, **options):
    model = read_model(CHAIN)
    graph = from_proto(model)
    annotate(graph)
    changes = Quantize(ranges="minmax", **options).run(graph, context(model))
    return {r.node for r in changes.rewrites}, {r.node: r.reason for r in changes.refused}


def test_a_first_convolution_that_is_slower_on_integers_stays_in_float(context):
    done, left = placed(context)
    assert done == {"body", "last"}
    assert "longer on integers" in left["stem"]


def test_a_microcontroller_runs_all_on_integers(context):
    def on_mcu(model):
        return context(model, "arm-cortex-m4")

    done, _ = placed(on_mcu)
    assert done == {"stem", "body", "last"}


@pytest.mark.parametrize("keep", [("last",), ("la*",), ("last", "l?st")])
def test_keep(context, keep):
    done, left = placed(context, keep=keep, min_work=0)
    assert done == {"stem", "body"}
    assert left == {"last": "named in `keep`"}


def test_only(context):
    done, left = placed(context, only=("stem",))
    assert done == {"stem"}
    assert left == dict.fromkeys(("body", "last"), "not named in `only`")


def test_keep_goes_before_only(context):
    done, _ = placed(context, only=("stem", "body"), keep=("stem",))
    assert done == {"body"}


@pytest.mark.parametrize("option", ["keep", "only"])
def test_a_name_that_fits_nothing_is_an_error(context, option):
    with pytest.raises(UsageError, match=rf"{option} names `bodi`.*the nearest are `body`"):
        placed(context, **{option: ("bodi",)})


def test_skip_passes_over_names_that_do_not_occur(context):
    done, _ = placed(context, skip=("bodi",), min_work=0)
    assert done == {"stem", "body", "last"}


def test_prices_of_the_whole_network_outweigh_the_border(zoo):
    """In float, the first convolution of a residual network leaves a change of layout beside each of its sums."""
    graph = load(zoo.model("cifar10_resnet20_jpegft"))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    data = Dataset.from_arrays(zoo.calib("cifar10_resnet20_jpegft", 2), inputs=TensorSpec.inputs_of(to_proto(graph)))
    changes = Quantize(ranges="minmax").run(graph, Context(target=Target.load("x86-avx512-vnni"), calibration=data))
    assert "/conv1/Conv" in {r.node for r in changes.rewrites}
    transposes = [node for node in optimised(to_proto(graph)).graph.node if node.op_type == "Transpose"]
    assert len(transposes) <= 2


FLOAT = {
    "ultraface_rfb320": {"245", "248"},
    "mobilenetv2_imagenet": {"/stem/Conv", "/blocks/blocks.0/dw/Conv"},
    "squeezenet1_1_imagenet": {"/features/features.0/Conv"},
}
"""Convolutions of real networks that measured slower on integers, with their conversions, than in float."""


@pytest.mark.parametrize("name", FLOAT)
def test_first_layers_of_real_networks_stay_in_float(zoo, name):
    graph = load(zoo.model(name))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    data = Dataset.from_arrays(zoo.calib(name, 2), inputs=TensorSpec.inputs_of(to_proto(graph)))
    ctx = Context(target=Target.load("x86-avx512-vnni"), calibration=data)
    convolutions = {edit.label(node) for node in graph.nodes if node.op == "Conv"}
    changes = Quantize(ranges="minmax").run(graph, ctx)
    left = convolutions - {r.node for r in changes.rewrites}
    assert left >= FLOAT[name]
    assert len(left) <= 0.1 * len(convolutions) + 2
    counts = count_kernels(optimised(to_proto(graph)))
    assert counts.float_convolutions == len(left)
