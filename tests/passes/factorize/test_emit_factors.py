from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import parser

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto
from lpcc.passes.factorize import emit
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.bmd import Bmd
from lpcc.passes.factorize.methods.svd import Svd
from lpcc.passes.factorize.methods.tucker2 import Tucker2
from lpcc.runtime import Session

METHODS = (Svd, Bmd, Tucker2)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_full_rank_reproduces_any_layer(random_layer, run_layer, written, data, method):
    model = random_layer(data.draw)
    wanted = run_layer(model)
    form = Form.of(from_proto(model).nodes[0])
    try:
        found = method(form)
    except Declined as why:
        assert "fewer weights" in str(why)  # noqa: PT017
        return
    graph, _ = written(model, lambda form: method(form).factors(found.full))
    np.testing.assert_allclose(run_layer(to_proto(graph)), wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_a_lower_rank_is_the_layer_of_its_tensor(random_layer, run_layer, written, layer, data, method):
    """What is emitted computes what `Factors.tensor` says."""
    model = random_layer(data.draw)
    form = Form.of(from_proto(model).nodes[0])
    try:
        found = method(form)
    except Declined:
        return
    rank = tuple(data.draw(st.integers(1, most)) for most in found.full)
    factors = found.factors(rank)
    graph, _ = written(model, lambda _: factors)
    tensor = factors.tensor
    tensor = tensor.swapaxes(1, 2) if form.op == "ConvTranspose" else tensor
    [node] = model.graph.node
    if form.kernel:
        values = tensor.reshape(-1, *tensor.shape[2:])
    else:
        values = tensor[0] if any(a.name == "transB" and a.i for a in node.attribute) else tensor[0].T
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), "w")
    )
    np.testing.assert_allclose(run_layer(to_proto(graph)), run_layer(changed), rtol=1e-4, atol=1e-4)


def test_strides_dilations_and_padding_are_split_by_axis(layer, written):
    weights = np.random.default_rng(0).standard_normal((8, 6, 3, 5))
    model = layer("Conv", weights, (2, 6, 12, 14), None, strides=[2, 3], dilations=[2, 1], pads=[1, 2, 3, 4])
    graph, (first, last) = written(model, lambda form: Bmd(form).factors((4,)))
    assert first.attrs == {
        "group": 1, "kernel_shape": [3, 1], "strides": [2, 1], "dilations": [2, 1], "pads": [1, 0, 3, 0],
    }  # fmt: skip
    assert last.attrs == {
        "group": 1, "kernel_shape": [1, 5], "strides": [1, 3], "dilations": [1, 1], "pads": [0, 2, 0, 4],
    }  # fmt: skip
    assert (first.name, last.name) == ("layer/bmd0", "layer")
    assert [node.name for node in graph.nodes] == ["layer/bmd0", "layer"]
    assert first.outputs[0].shape == [2, 4, 6, 14]
    assert first.outputs[0].dtype == np.float32
    assert graph.outputs[0].name == "y"


@pytest.mark.parametrize("method", METHODS)
def test_shapes_are_those_of_shape_inference(layer, written, method):
    weights = np.random.default_rng(0).standard_normal((8, 3, 3, 2))
    model = layer("Conv", weights, (2, 6, 9, 8), np.ones(8), group=2, strides=[2, 1], auto_pad="SAME_UPPER")
    graph, nodes = written(model, lambda form: method(form).factors(method(form).full))
    told = [node.outputs[0].shape for node in nodes]
    assert None not in told
    for node in nodes[:-1]:
        node.outputs[0].shape = None
    again = from_proto(to_proto(graph))
    annotate(again)
    assert [node.outputs[0].shape for node in again.nodes] == told


def test_only_what_moves_stays_transposed(layer, written):
    weights = np.random.default_rng(0).standard_normal((6, 8, 3, 3))
    model = layer("ConvTranspose", weights, (1, 6, 4, 4), None, strides=[2, 2])
    operators = {
        method.name: [node.op for node in written(model, lambda form, m=method: m(form).factors(m(form).full))[1]]
        for method in METHODS
    }
    assert operators == {
        "svd": ["ConvTranspose", "Conv"],
        "bmd": ["ConvTranspose", "ConvTranspose"],
        "tucker2": ["Conv", "ConvTranspose", "Conv"],
    }


def test_a_transposed_layer_of_one_pixel_becomes_plain_only_where_it_does_not_move(layer, written):
    weights = np.random.default_rng(0).standard_normal((6, 8, 1, 1))
    still = layer("ConvTranspose", weights, (1, 6, 4, 4))
    moving = layer("ConvTranspose", weights, (1, 6, 4, 4), None, strides=[2, 1])
    assert [node.op for node in written(still, lambda form: Svd(form).factors((3,)))[1]] == ["Conv", "Conv"]
    assert [node.op for node in written(moving, lambda form: Svd(form).factors((3,)))[1]] == ["ConvTranspose", "Conv"]


def test_gemm_keeps_alpha_beta_and_its_third_input(layer, written, run_layer):
    rng = np.random.default_rng(0)
    attrs = {"alpha": 0.5, "beta": 3.0, "transB": 1}
    model = layer("Gemm", rng.standard_normal((7, 5)), (2, 5), rng.standard_normal((2, 1)), 7, **attrs)
    graph, nodes = written(model, lambda form: Svd(form).factors((5,)))
    assert [node.op for node in nodes] == ["MatMul", "Gemm"]
    assert nodes[1].attrs == attrs
    assert nodes[1].inputs[1].shape == (7, 5)
    np.testing.assert_allclose(run_layer(to_proto(graph)), run_layer(model), rtol=1e-4, atol=1e-4)


def test_half_precision_stays_half_precision(layer, written, run_layer):
    weights = np.random.default_rng(0).standard_normal((8, 6, 3, 3)).astype(np.float16) / np.float16(8)
    model = layer("Conv", weights, (1, 6, 6, 6), np.ones(8), pads=[1, 1, 1, 1])
    graph, nodes = written(model, lambda form: Bmd(form).factors((18,)))
    assert {node.inputs[1].dtype for node in nodes} == {np.dtype(np.float16)}
    assert nodes[0].outputs[0].dtype == np.float16
    np.testing.assert_allclose(run_layer(to_proto(graph)), run_layer(model), rtol=2e-2, atol=2e-2)


def test_factors_too_large_for_the_type_are_declined_and_nothing_changes(layer):
    weights = np.full((40, 40, 1, 1), 6e4, np.float16)
    graph = from_proto(layer("Conv", weights, (1, 40, 2, 2)))
    before = to_proto(graph).SerializeToString(deterministic=True)
    [node] = graph.nodes
    form = Form.of(node)
    factors = Tucker2(form).factors((1,))
    stage = factors.stages[0]
    large = type(factors)("svd", (1,), (type(stage)(stage.tensor * 1e4, stage.axes), factors.stages[1]))
    with edit.Edit(graph) as e, pytest.raises(Declined, match="too large for float16"):
        emit.write(e, node, form, large)
    assert to_proto(graph).SerializeToString(deterministic=True) == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), method=st.sampled_from((Svd, Bmd)))
def test_a_batch_norm_between_two_layers_changes_nothing(random_layer, run_layer, written, data, method):
    model = random_layer(data.draw)
    form = Form.of(from_proto(model).nodes[0])
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    try:
        factors = method(form).factors(method(form).full)
    except Declined:
        return
    channels = form.groups * factors.rank[0]
    norm = emit.Norm(rng.standard_normal(channels), rng.uniform(0, 2, channels), 1e-3)
    if form.op == "MatMul" and len(model.graph.input[0].type.tensor_type.shape.dim) != 2:
        with pytest.raises(Declined, match="another axis"):
            written(model, lambda _: factors, norm)
        return
    graph, nodes = written(model, lambda _: factors, norm)
    assert [node.op for node in nodes][1] == "BatchNormalization"
    assert nodes[1].outputs[0].shape == nodes[0].outputs[0].shape
    np.testing.assert_allclose(run_layer(to_proto(graph)), run_layer(model), rtol=1e-4, atol=1e-4)


def test_a_batch_norm_has_the_statistics(layer, written):
    weights = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    model = layer("Conv", weights, (1, 6, 6, 6))
    norm = emit.Norm(np.arange(4.0), np.arange(1.0, 5.0), 0.5)
    _, (_, between, _) = written(model, lambda form: Bmd(form).factors((4,)), norm)
    scale, shift, mean, variance = (np.asarray(tensor.values) for tensor in between.inputs[1:])
    np.testing.assert_array_equal(mean, np.arange(4.0))
    np.testing.assert_array_equal(variance, np.arange(1.0, 5.0))
    np.testing.assert_allclose(scale, np.sqrt(variance + 0.5))
    np.testing.assert_array_equal(shift, mean)
    assert between.attrs == {"epsilon": 0.5}


def test_a_batch_norm_that_fits_nothing_is_an_error(layer, written):
    model = layer("Conv", np.random.default_rng(0).standard_normal((8, 6, 3, 3)), (1, 6, 6, 6))
    with pytest.raises(ValueError, match="4 channels"):
        written(model, lambda form: Bmd(form).factors((4,)), emit.Norm(np.zeros(3), np.ones(3)))
    with pytest.raises(ValueError, match="not 3"):
        written(model, lambda form: Tucker2(form).factors((4, 4)), emit.Norm(np.zeros(4), np.ones(4)))


def test_in_a_branch():
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool which, float[1,6,8,8] x) => (float[1,8,8,8] y) {
          y = If (which) <
            then_branch = one () => (float[1,8,8,8] a) { [layer] a = Conv <pads = [1,1,1,1]> (x, w) },
            else_branch = two () => (float[1,8,8,8] b) { b = Conv <pads = [1,1,1,1]> (x, v) }
          >
        }""")
    rng = np.random.default_rng(0)
    for name in ("w", "v"):
        values = rng.standard_normal((8, 6, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    graph = from_proto(model)
    annotate(graph)
    [branch] = [scope for scope in edit.graphs(graph) if scope.name == "one"]
    with edit.Edit(branch) as e:
        [node] = e.nodes
        form = Form.of(node)
        emit.write(e, node, form, Bmd(form).factors((18,)))
    assert len(branch.nodes) == 2
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    x = rng.standard_normal((1, 6, 8, 8)).astype(np.float32)
    for which in (True, False):
        feeds = {"which": np.asarray(which), "x": x}
        wanted = Session(model, optimise=False).run(feeds)["y"]
        np.testing.assert_allclose(Session(after, optimise=False).run(feeds)["y"], wanted, rtol=1e-4, atol=1e-4)


def test_names_stay_unique_when_a_stage_is_replaced_again(layer, written):
    model = layer("Conv", np.random.default_rng(0).standard_normal((8, 6, 3, 3)), (1, 6, 6, 6))
    graph, nodes = written(model, lambda form: Bmd(form).factors((4,)))
    with edit.Edit(graph) as e:
        form = Form.of(nodes[1])
        emit.write(e, nodes[1], form, Bmd(form).factors((2,)))
    names = [node.name for node in graph.nodes]
    assert names == ["layer/bmd0", "layer/bmd0_1", "layer"]
    onnx.checker.check_model(to_proto(graph), full_check=True)


def test_a_layer_without_a_name_goes_by_its_output(layer, written):
    model = layer("MatMul", np.random.default_rng(0).standard_normal((6, 8)), (3, 6))
    model.graph.node[0].name = ""
    _, (first, last) = written(model, lambda form: Svd(form).factors((2,)))
    assert (first.name, last.name) == ("y/svd0", "")
