from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from lpcc.data import Dataset
from lpcc.equality import random_feeds
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.exactness import check_exact
from lpcc.pipeline.runner import run_pipeline
from lpcc.pipeline.variant import Variant
from lpcc.runtime import Session
from lpcc.target import Target
from lpcc.testing import assert_equivalent, golden_cases
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("case", golden_cases("golden/remove-dead-channels"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


def with_dead_channels(model, rng):
    """The model with some rows of its weights zero, and some numbers of its vectors.

    Variances are zero where scales are: elsewhere such a batch norm multiplies by 300, and all rounding with it.
    """
    killed = 0
    norms = [node.input for node in model.graph.node if node.op_type == "BatchNormalization"]
    variances = {names[4] for names in norms}
    layers = ("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul")
    numbers = {name for node in model.graph.node if node.op_type in layers for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name not in numbers - variances:
            continue
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype != np.float32 or len(values) < 2 or rng.random() < 0.3:
            continue
        rows = rng.random(len(values)) < 0.4
        values[rows] = 0
        killed += int(rows.sum())
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for _, scale, _, _, variance in norms:
        values = np.where(numpy_helper.to_array(tensors[scale]) == 0, 0, numpy_helper.to_array(tensors[variance]))
        tensors[variance].CopyFrom(numpy_helper.from_array(values, variance))
    return killed


def test_a_constant_channel_of_which_the_variance_is_zero():
    """As training leaves it: the batch norm divides by nothing but its epsilon."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,2,4,4] x) => (float[N,2,4,4] y)
    <float[3,2,1,1] w, float[3] b = {1.5, 2.5, -0.5}, float[3] s = {2.0, 0.5, 1.0}, float[3] o = {0.1, 0.2, 0.3},
     float[3] m = {1.0, 2.49, 0.5}, float[3] v = {1.0, 0.0, 2.0}, float[2,3,1,1] u>
    { c = Conv(x, w, b) n = BatchNormalization(c, s, o, m, v) r = Relu(n) y = Conv(r, u) }
    """
    model = read_model(text)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = numpy_helper.to_array(tensors["w"]).copy()
    weights[1] = 0
    tensors["w"].CopyFrom(numpy_helper.from_array(weights, "w"))
    after, changes = removed(model)
    assert changes
    assert next(tensor for tensor in after.graph.initializer if tensor.name == "w").dims[0] == 2
    assert_equivalent(model, after, dims={"N": 2})


def removed(model):
    graph = from_proto(model)
    (record,) = run_pipeline(graph, Pipeline.parse("remove-dead-channels"), Context())
    return to_proto(graph), record.changes


def check_dead_channels(random_network, data):
    model = random_network(data.draw)
    killed = with_dead_channels(model, np.random.default_rng(data.draw(st.integers(0, 999))))
    after, changes = removed(model)
    onnx.checker.check_model(after, full_check=True)
    original, shorter = (Variant(from_proto(m), Target.load("arm-cortex-a")) for m in (model, after))
    reference = Session(original.model, optimise=False)
    images = Dataset.from_arrays(random_feeds(model, dims={"N": 2}), inputs=reference.inputs)
    assert check_exact(original, shorter, reference, images) is None
    idle = any(node.op_type in ("Pad", "Gather", "Slice") for node in model.graph.node)  # zeros, and what nobody picks
    assert killed or not changes or idle


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_networks(random_network, data):
    check_dead_channels(random_network, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_random_networks(random_network, data):
    check_dead_channels(random_network, data)


def test_nothing_dead_in_a_trained_network(zoo):
    model = onnx.load(zoo.model("cifar10_resnet20_jpegft"))
    graph = from_proto(model)
    records = run_pipeline(graph, Pipeline.parse("exact,remove-dead-channels"), Context())
    assert not records[-1].changes


def test_a_slimmed_network(zoo):
    """Scales of zero: the channels whose bias does not come through the Relu go, those before a padded layer stay."""
    model = onnx.load(zoo.model("fashion_mnist_vgg"))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    rng = np.random.default_rng(0)
    gone = []
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    for node in norms:
        scale, bias = (numpy_helper.to_array(weights[name]).copy() for name in node.input[1:3])
        dead = rng.random(len(scale)) < 0.4
        scale[dead] = 0
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(scale, node.input[1]))
        gone.append(int((dead if node is norms[-1] else dead & (bias <= 0)).sum()))
    after, changes = removed(model)
    assert_equivalent(model, after, dims={"batch": 2})
    sizes = {tensor.name: tensor.dims[0] for tensor in after.graph.initializer}
    assert [weights[node.input[1]].dims[0] - sizes[node.input[1]] for node in norms] == gone
    assert min(gone) > 0
    assert {refusal.reason.split("`")[-1] for refusal in changes.refused} == {" pads it with zeros"}


@pytest.mark.parametrize("behind", ["GlobalAveragePool(t)", "Transpose(t)", "Split<axis = 1>(t)", "Relu(t)"])
def test_a_single_channel_that_is_constant(behind):
    """No label follows it, as it could not go."""
    model = read_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,4,4] x) => (float[N,c,h,w] y) <float[4,3,1,1] u, float[4,1,1,1] v = {{0.0, 0.0, 0.0, 0.0}}>
        {{ a = Conv(x, u) r = Relu(a) t = ConvTranspose(r, v) y = {behind} }}""")
    after, _ = removed(model)
    assert_equivalent(model, after, dims={"N": 2})


ZEROS = "float[8,3,1,1] w, float[8] b, float[8,8,1,1] k, float[2,8,1,1] u"


def with_zero_filters(body, weights, y, opset=17):
    """A network whose first convolution `a` has two filters of zeros, and those of `k` read a channel each."""
    model = read_model(f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[2,3,4,4] x) => ({y}) <{ZEROS}, {weights}> {{ a = Conv(x, w, b) {body} }}""")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w":
            values[:2] = 0
        elif tensor.name == "k":
            values[...] = np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def test_a_constant_is_none_any_more_behind_a_resize_that_crops():
    crop = 'mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0'
    model = with_zero_filters(
        f"c = Resize<{crop}>(a, roi, , sizes) d = Conv(c, k) e = Relu(d) y = Conv(e, u)",
        "float[8] roi = {0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5}, int64[4] sizes = {2, 8, 8, 8}",
        "float[2,2,8,8] y",
    )
    after, changes = removed(model)
    assert not changes
    assert_equivalent(model, after)


def test_a_constant_is_none_any_more_behind_a_dropout_that_trains():
    body = "c = Dropout(a, ratio, training) y = Conv(c, u)"
    weights = "float ratio = {0.5}, bool training = {%s}"
    trained, frozen = (with_zero_filters(body, weights % mode, "float[2,2,4,4] y") for mode in (1, 0))
    assert not removed(trained)[1]
    assert removed(frozen)[1]


def test_batch_norms_with_numbers_for_each_place_are_passed_over():
    model = with_zero_filters(
        "c = BatchNormalization<spatial=0>(a, s, s, s, s) y = Conv(c, u)", "float[8,4,4] s", "float[2,2,4,4] y", opset=7
    )
    assert not removed(model)[1]


@pytest.mark.parametrize("op", ["HardSwish", "Mish", "Gelu", 'Gelu<approximate = "tanh">', "Celu", "Selu"])
def test_constants_go_through_operators_that_are_functions_of_others(op):
    model = with_zero_filters(f"c = {op}(a) y = Conv(c, u)", "float unused = {0}", "float[2,2,4,4] y", opset=20)
    after, changes = removed(model)
    assert [rewrite.node for rewrite in changes.rewrites] == ["a"]
    assert_equivalent(model, after)
