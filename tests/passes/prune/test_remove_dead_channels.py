from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.testing import assert_equivalent, golden_cases
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("case", golden_cases("golden/remove-dead-channels"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


def with_dead_channels(model, rng):
    """The model with some rows of its weights zero, and some numbers of its vectors."""
    killed = 0
    layers = ("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul")
    numbers = {name for node in model.graph.node if node.op_type in layers for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name not in numbers:
            continue
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype != np.float32 or len(values) < 2 or rng.random() < 0.3:
            continue
        rows = rng.random(len(values)) < 0.4
        values[rows] = 0
        killed += int(rows.sum())
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return killed


def removed(model):
    graph = from_proto(model)
    (record,) = run_pipeline(graph, Pipeline.parse("remove-dead-channels"), Context())
    return to_proto(graph), record.changes


def check_dead_channels(random_network, data):
    model = random_network(data.draw)
    killed = with_dead_channels(model, np.random.default_rng(data.draw(st.integers(0, 999))))
    after, changes = removed(model)
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(model, after, dims={"N": 2})
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
