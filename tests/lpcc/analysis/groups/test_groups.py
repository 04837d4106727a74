"""Operator by operator: which channels are one, what goes with each, and what is pinned and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.graph import clone, from_proto
from lpcc.testing.golden import read_model

HEAD = '<ir_version: 10, opset_import: ["": 17, "com.example": 1]>\n'


def found_in(body, weights="", *, x="float[N,4,8,8] x", y="float[N,2,8,8] y", opset=17):
    """Groups of a network that is, but for `body`, one convolution `w0` of x at the start."""
    head = HEAD.replace("17", str(opset))
    graph = from_proto(
        read_model(
            f"{head}g ({x}) => ({y})\n<float[8,4,1,1] w0{weights and ', '}{weights}>\n{{ a = Conv(x, w0) {body} }}"
        )
    )
    annotate(graph)
    return channel_groups(graph)


def free(found):
    """Of each group that is free: how many channels, and the axes of constants that shrink with them."""
    return [(len(g), " ".join(map(str, g.weights))) for g in found.groups if g.pinned is None]


def pinned(found):
    return {g.pinned for g in found.groups if g.pinned and "put of the model" not in g.pinned}


@pytest.mark.parametrize(
    "op", ["Relu", "Sigmoid", "HardSwish", "Identity", "Dropout", "Cast<to=1>", "Clip", "Exp", "Neg"]
)
def test_operators_on_elements(op):
    assert free(found_in(f"b = {op}(a) y = Conv(b, v)", "float[2,8,1,1] v")) == [(8, "w0[0] v[1]")]


@pytest.mark.parametrize(
    "op",
    [
        "MaxPool<kernel_shape=[3,3]>",
        "AveragePool<kernel_shape=[2,2]>",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "ReduceMean<axes=[2,3]>",
    ],
)
def test_pools(op):
    assert free(found_in(f"b = {op}(a) y = Conv(b, v)", "float[2,8,1,1] v", y="float[N,2,H,W] y")) == [
        (8, "w0[0] v[1]")
    ]


def test_sums_join_their_operands():
    body = "b = Conv(x, w1) c = Add(a, b) d = Mul(c, a) y = Conv(d, v)"
    assert free(found_in(body, "float[8,4,1,1] w1, float[2,8,1,1] v")) == [(8, "w0[0] w1[0] v[1]")]


@pytest.mark.parametrize("shape", ["8,1,1", "1,8,1,1"])
def test_constants_along_channels(shape):
    assert free(found_in("b = Mul(a, s) y = Conv(b, v)", f"float[{shape}] s, float[2,8,1,1] v")) == [
        (8, f"w0[0] s[{shape.split(',').index('8')}] v[1]")
    ]


def test_constants_across_channels_do_not_shrink():
    body = "b = Mul(a, s) c = Add(b, t) y = Conv(c, v)"
    assert free(found_in(body, "float[8,8] s, float t, float[2,8,1,1] v")) == [(8, "w0[0] v[1]")]


def test_numbers_of_batch_norm_and_prelu():
    body = "b = BatchNormalization(a, s, t, m, var) c = PRelu(b, p) d = InstanceNormalization(c, i, j) y = Conv(d, v)"
    weights = (
        "float[8] s, float[8] t, float[8] m, float[8] var, float[8,1,1] p, float[8] i, float[8] j, float[2,8,1,1] v"
    )
    assert free(found_in(body, weights)) == [(8, "w0[0] s[0] t[0] m[0] var[0] p[0] i[0] j[0] v[1]")]


def test_a_stream_of_one_channel_does_not_shrink():
    found = found_in("b = Conv(a, s) c = Sigmoid(b) d = Mul(a, c) y = Conv(d, v)", "float[1,8,1,1] s, float[2,8,1,1] v")
    assert free(found) == [(8, "w0[0] s[1] v[1]")]


def test_convolutions_in_groups_lose_as_many_from_each():
    found = found_in("b = Conv<group=2>(a, v) y = Conv(b, u)", "float[6,4,1,1] v, float[2,6,1,1] u")
    assert free(found) == [(4, "w0[0] x2 v[1]"), (3, "v[0] x2 u[1] x2")]


def test_depthwise_convolutions_hand_channels_on():
    found = found_in("b = Conv<group=8>(a, d, e) y = Conv(b, v)", "float[16,1,1,1] d, float[16] e, float[2,16,1,1] v")
    assert free(found) == [(8, "w0[0] d[0] x2 e[0] x2 v[1] x2")]
    assert [(str(layer), layer.reads is None) for layer in found.groups[1].makers] == [
        ("Conv `a`", False),
        ("Conv `b`", True),
    ]


@pytest.mark.parametrize(
    ("groups", "shape", "expected"),
    [
        (1, "8,6,2,2", [(8, "w0[0] t[0]"), (6, "t[1] v[1]")]),
        (2, "8,3,2,2", [(4, "w0[0] x2 t[0] x2"), (3, "t[1] v[1] x2")]),
        (8, "8,1,2,2", [(8, "w0[0] t[0] v[1]")]),
    ],
)
def test_transposed_convolutions(groups, shape, expected):
    made = {1: 6, 2: 6, 8: 8}[groups]
    body = f"b = ConvTranspose<group={groups}>(a, t) y = Conv(b, v)"
    assert free(found_in(body, f"float[{shape}] t, float[2,{made},1,1] v", y="float[N,2,H,W] y")) == expected


def test_flatten_gives_a_channel_many_columns():
    body = "b = Flatten(a) c = Gemm<transB=1>(b, g, h) y = Gemm(c, k)"
    weights = "float[6,512] g, float[6] h, float[6,3] k"
    assert free(found_in(body, weights, y="float[N,3] y")) == [(8, "w0[0] g[1] x64"), (6, "g[0] h[0] k[0]")]


@pytest.mark.parametrize("target", ["{0, -1}", "{-1, 512}"])
def test_reshape_as_flatten(target):
    body = "b = Reshape(a, t) y = MatMul(b, g)"
    assert free(found_in(body, f"int64[2] t = {target}, float[512,3] g", y="float[N,3] y")) == [(8, "w0[0] g[0] x64")]


def test_matrices_on_either_side():
    body = """b = Transpose<perm=[0,2,3,1]>(a) c = MatMul(b, g) d = Add(c, h) e = Transpose<perm=[0,3,1,2]>(d)
        y = Conv(e, v)"""
    weights = "float[8,6] g, float[6] h, float[2,6,1,1] v"
    assert free(found_in(body, weights)) == [(8, "w0[0] g[0]"), (6, "g[1] h[0] v[1]")]


def test_products_of_activations_sum_over_channels():
    body = """k = Conv(x, w1) q = Reshape(a, s) r = Reshape(k, s) t = Transpose<perm=[0,2,1]>(q) y = MatMul(t, r)"""
    found = found_in(body, "float[8,4,1,1] w1, int64[3] s = {0, 8, 64}", y="float[N,64,64] y")
    assert free(found) == [(8, "w0[0] w1[0]")]
    assert [layer.op for layer in found.groups[1].readers] == ["MatMul"]


def test_concat_keeps_its_parts_apart():
    body = "b = Conv(x, w1) c = Concat<axis=1>(a, b) y = Conv(c, v)"
    found = found_in(body, "float[4,4,1,1] w1, float[2,12,1,1] v")
    assert free(found) == [(8, "w0[0] v[1]"), (4, "w1[0] v[1]")]
    assert found.groups[2].weights[1].places.T.tolist() == [[8, 9, 10, 11]]


@pytest.mark.parametrize("by", ["int64[2] s = {2, 6}", "attribute"])
def test_split(by):
    opset, cut = (
        (17, "p, q = Split<axis=1>(a, s)") if by != "attribute" else (11, "p, q = Split<axis=1, split=[2, 6]>(a)")
    )
    weights = "float[2,2,1,1] v, float[2,6,1,1] u" + (f", {by}" if by != "attribute" else "")
    found = found_in(f"{cut} b = Conv(p, v) c = Conv(q, u) y = Add(b, c)", weights, opset=opset)
    assert free(found) == [(2, "w0[0] v[1]"), (6, "w0[0] u[1]")]


def test_slices_and_pads_of_a_shortcut():
    """Option A: what Pad adds goes with what it is added to."""
    body = "s = Slice(a, b, e, i, j) p = Pad(s, n) c = Conv<strides=[2,2]>(a, v) d = Add(p, c) y = Conv(d, u)"
    weights = """int64[1] b = {0}, int64[1] e = {99}, int64[1] i = {2}, int64[1] j = {2},
        int64[8] n = {0, 2, 0, 0, 0, 2, 0, 4}, float[12,8,1,1] v, float[2,12,1,1] u"""
    found = found_in(body, weights, y="float[N,2,H,W] y")
    assert free(found) == [(8, "w0[0] v[0] v[1] u[1]"), (4, "v[0] u[1]")]


def test_slices_of_channels():
    weights = "int64[1] b = {-1}, int64[1] e = {0}, int64[1] i = {1}, int64[1] j = {-2}, float[2,4,1,1] v"
    found = found_in("s = Slice(a, b, e, i, j) y = Conv(s, v)", weights)
    assert free(found) == [(4, "w0[0]"), (4, "w0[0] v[1]")]
    assert found.groups[2].weights[0].places.T.tolist() == [[1, 3, 5, 7]]
    assert sorted(found.groups[2].weights[1].places.T.tolist()[0]) == [0, 1, 2, 3]


def test_channels_that_are_picked_twice():
    found = found_in("s = Gather<axis=1>(a, i) y = Conv(s, v)", "int64[3] i = {5, 5, -1}, float[2,3,1,1] v")
    assert [(n, w) for n, w in free(found) if "v" in w] == [(1, "w0[0] v[1] x2"), (1, "w0[0] v[1]")]


def test_a_channel_that_is_picked_alone_stays():
    found = found_in(
        "s = Gather<axis=1>(a, i) t = Unsqueeze(s, k) y = Conv(t, v)",
        "int64 i = {3}, int64[1] k = {1}, float[2,1,1,1] v",
    )
    assert free(found) == [(7, "w0[0]")]
    assert pinned(found) == {"Gather `s` picks it alone"}


@pytest.mark.parametrize("shape", ["0, 2, 4, 8, 8", "-1, 2, 4, 8, 8"])
def test_shuffles_tie_places_across_groups(shape):
    body = "r = Reshape(a, s) t = Transpose<perm=[0,2,1,3,4]>(r) u = Reshape(t, z) y = Conv(u, v)"
    found = found_in(body, f"int64[5] s = {{{shape}}}, int64[4] z = {{-1, 8, 8, 8}}, float[2,8,1,1] v")
    assert free(found) == [(4, "w0[0] x2 v[1] x2")]
    (member,) = [m for m in found.groups[1].weights if m.name == "v"]
    assert member.places.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_squeeze_and_excitation():
    body = (
        "p = GlobalAveragePool(a) h = Conv(p, s) r = Relu(h) e = Conv(r, t) f = Sigmoid(e) m = Mul(a, f) y = Conv(m, v)"
    )
    found = found_in(body, "float[3,8,1,1] s, float[8,3,1,1] t, float[2,8,1,1] v")
    assert free(found) == [(8, "w0[0] s[1] t[0] v[1]"), (3, "s[0] t[1]")]


@pytest.mark.parametrize("how", ["Resize(a, , z)", "Resize(a, , , q)", "Upsample(a, z)"])
def test_resizing(how):
    opset = 9 if how[0] == "U" else 17
    weights = "float[2,8,1,1] v, float[4] z = {1, 1, 2, 2}, int64[4] q = {1, 8, 16, 16}"
    body = f"b = {how} y = Conv(b, v)"
    assert free(found_in(body, weights, x="float[1,4,8,8] x", y="float[1,2,16,16] y", opset=opset)) == [
        (8, "w0[0] v[1]")
    ]


@pytest.mark.parametrize(("how", "opset"), [("Resize(a, , z)", 17), ("Resize(a, z)", 10), ("Upsample(a, z)", 9)])
def test_resizing_mixes_channels_that_it_scales_to_as_many(how, opset):
    found = found_in(f"b = {how} y = Conv(b, v)", "float[4] z = {1, 1.1, 1, 1}, float[2,8,1,1] v", opset=opset)
    assert free(found) == []
    assert any("mixes it" in reason for reason in pinned(found))


def test_batch_norms_with_numbers_for_each_place_stay():
    found = found_in(
        "b = BatchNormalization<spatial=0>(a, s, s, s, s) y = Conv(b, v)", "float[8,8,8] s, float[2,8,1,1] v", opset=7
    )
    assert pinned(found) == {"BatchNormalization `b`: it has numbers for each place"}


def test_blocks_of_space():
    body = "b = DepthToSpace<blocksize=2>(a) c = SpaceToDepth<blocksize=2>(b) y = Conv(c, v)"
    assert free(found_in(body, "float[2,8,1,1] v")) == [(2, "w0[0] x4 v[1] x4")]


def test_quantised_layers():
    """Weights behind a DequantizeLinear shrink as integers, with their scales."""
    body = "q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z) d = DequantizeLinear<axis=0>(i, f) y = Conv(b, d)"
    weights = "float s = {0.1}, uint8 z = {3}, int8[2,8,1,1] i, float[2] f"
    assert free(found_in(body, weights)) == [(8, "w0[0] i[1]")]


def test_weights_that_are_computed():
    body = "k = Cast<to=1>(i) b = Mul(k, f) c = Conv(a, b) y = Conv(c, v)"
    weights = "int8[6,8,1,1] i, float[6,1,1,1] f, float[2,6,1,1] v"
    assert free(found_in(body, weights)) == [(8, "w0[0] i[1]"), (6, "i[0] f[0] v[1]")]


def test_a_shared_weight_ties_what_its_layers_make_and_read():
    body = "b = Conv(a, s) c = Relu(b) d = Conv(c, s) y = Conv(d, v)"
    assert free(found_in(body, "float[8,8,1,1] s, float[2,8,1,1] v")) == [(8, "w0[0] s[0] s[1] v[1]")]


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("b = Softmax<axis=1>(a) y = Conv(b, v)", "", "Softmax `b` runs over it"),
        ("b = LRN<size=3>(a) y = Conv(b, v)", "", "LRN `b` runs over it"),
        ("b = ReduceMax<axes=[1]>(a) c = Add(a, b) y = Conv(c, v)", "", "ReduceMax `b` is over channels"),
        ("b = com.example.Relu(a) c = Mul(a, b) y = Conv(c, v)", "", "com.example::Relu `b`: it is not followed"),
        ("n = LayerNormalization<axis=1>(a, s) y = Conv(n, v)", "float[8,8,8] s",
          "LayerNormalization `n` runs over it"),
        ("k, i = TopK<axis=1>(a, n) y = Conv(k, v)", "int64[1] n = {8}", "TopK `k`: it is not followed"),
        ("s = Size(a) f = Cast<to=1>(s) b = Div(a, f) y = Conv(b, v)", "", "Size `s`: it is not followed"),
        ("h = Shape(x) n = Mul(h, h) b = Slice(a, n, n) y = Conv(b, v)", "", "Slice `b`: what it cuts is not constant"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_pinned_with_the_reason(body, weights, reason):
    found = found_in(body, ", ".join(filter(None, ["float[2,8,1,1] v", weights])))
    assert not [group for group in free(found) if "w0[0]" in group[1]]
    assert reason in pinned(found)


def test_inputs_and_outputs_stay():
    found = found_in("y = Conv(a, v)", "float[2,8,1,1] v")
    assert [g.pinned for g in found.groups] == ["`x` is an input of the model", None, "`y` is an output of the model"]


def test_weights_that_a_caller_may_replace_stay():
    found = found_in("y = Conv(a, v)", "", x="float[N,4,8,8] x, float[2,8,1,1] v")
    assert not free(found)
    assert pinned(found) == set()
    assert "`v` is an input of the model" in {g.pinned for g in found.groups}


def test_what_a_subgraph_reads_stays():
    inner = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["r"])], "i", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["s"])], "j", [], [helper.make_tensor_value_info("s", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=other),
        helper.make_node("Conv", ["a", "v"], ["y"]),
        helper.make_node("ReduceSum", ["b"], ["z"]),
    ]
    values = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 2, 1, 1], np.ones(8)),
        helper.make_tensor("v", TensorProto.FLOAT, [2, 4, 1, 1], np.ones(8)),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 3])
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    graph = from_proto(
        helper.make_model(
            helper.make_graph(nodes, "g", [x, c], outputs, values), opset_imports=[helper.make_opsetid("", 17)]
        )
    )
    annotate(graph)
    assert pinned(channel_groups(graph)) == {"If `b`: it is not followed"}


def test_a_group_is_said_in_words():
    found = found_in("b = Flatten(a) y = MatMul(b, g)", "float[512,3] g", y="float[N,3] y")
    assert str(found.groups[1]).splitlines() == [
        "8 channels, free",
        "  made by Conv `a`",
        "  read by MatMul `y`",
        "  weights w0[0], g[0] x64",
        "  tensors a[1], b[1] x64",
    ]


def test_it_holds_for_clones_and_is_the_same_each_time(zoo):
    graph = from_proto(onnx.load(zoo.model("fashion_mnist_vgg")))
    annotate(graph)
    first, second = channel_groups(graph), channel_groups(clone(graph))
    assert [str(group) for group in first.groups] == [str(group) for group in second.groups]
    assert all(np.array_equal(a.channels, b.channels) for a, b in zip(first.groups, second.groups, strict=True))
