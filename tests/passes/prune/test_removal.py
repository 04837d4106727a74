from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcc import edit
from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.errors import UsageError
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.passes.prune import remove, unshare, zeroed
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.testing import assert_equivalent
from lpcc.testing.golden import read_model
from lpcc.text import print_graph

HEAD = '<ir_version: 10, opset_import: ["": 17]>\n'


def prepared(text):
    """A graph with types, and its channels."""
    graph = from_proto(read_model(HEAD + text))
    annotate(graph)
    return graph, channel_groups(graph)


def check(graph, found, channels):
    """Removed channels leave a valid model that computes what it would with them at zero."""
    smaller = clone(graph)
    remove(smaller, found, channels)
    after = to_proto(smaller)
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(to_proto(zeroed(graph, found, channels)), after, dims={"N": 2})
    sizes = {tensor.name: list(tensor.dims) for tensor in after.graph.initializer}
    for name, axes in found.kept(channels).items():
        for axis, places in axes.items() if name in sizes else ():
            assert sizes[name][axis] == places.sum() < len(places)
    return smaller


def check_random_network(random_network, data):
    graph = from_proto(random_network(data.draw))
    annotate(graph)
    found = channel_groups(graph)
    free = [group for group in found.groups if group.pinned is None]
    if not free:
        return
    for group in free[:6]:
        some = data.draw(st.lists(st.sampled_from(group.channels.tolist()), min_size=1, unique=True))
        if not found.emptied(some):
            check(graph, found, some)
    together = [int(group.channels[0]) for group in free]
    if not found.emptied(together):
        check(graph, found, together)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_networks(random_network, data):
    check_random_network(random_network, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_random_networks(random_network, data):
    check_random_network(random_network, data)


PLAIN = """g (float[N,4,8,8] x) => (float[N,2,8,8] y) <float[6,4,1,1] w, float[6] b, float[2,6,1,1] v>
{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }"""


def test_what_is_left_is_what_was_there():
    graph, found = prepared(PLAIN)
    before = {tensor.name: tensor.values for node in graph.nodes for tensor in node.inputs if tensor.name in "wbv"}
    smaller = check(graph, found, found.groups[1].channels[[1, 4]])
    after = {tensor.name: tensor.values for node in smaller.nodes for tensor in node.inputs if tensor.name in "wbv"}
    assert np.array_equal(after["w"], before["w"][[0, 2, 3, 5]])
    assert np.array_equal(after["b"], before["b"][[0, 2, 3, 5]])
    assert np.array_equal(after["v"], before["v"][:, [0, 2, 3, 5]])
    assert smaller.nodes[1].outputs[0].shape == ["N", 4, 8, 8]
    assert before["w"].shape == (6, 4, 1, 1)


@pytest.mark.parametrize(("which", "message"), [(0, "is an input of the model"), (2, "is an output of the model")])
def test_pinned_channels_are_refused(which, message):
    graph, found = prepared(PLAIN)
    before = print_graph(graph)
    with pytest.raises(UsageError, match=message):
        remove(graph, found, found.groups[which].channels[:1])
    assert print_graph(graph) == before


def test_the_last_channel_is_refused():
    graph, found = prepared(PLAIN)
    before = print_graph(graph)
    with pytest.raises(UsageError, match="`w` would have no channels left"):
        remove(graph, found, found.groups[1].channels)
    assert print_graph(graph) == before


def test_nothing_removed_is_nothing_changed():
    graph, found = prepared(PLAIN)
    before = print_graph(graph)
    remove(graph, found, [])
    assert print_graph(graph) == before


def test_uneven_steps_become_a_gather():
    graph, found = prepared("""g (float[N,4,8,8] x) => (float[N,2,8,8] y)
    <float[9,4,1,1] w, float[2,5,1,1] v, int64[1] s = {0}, int64[1] e = {99}, int64[1] a = {1}, int64[1] t = {2}>
    { c = Conv(x, w) d = Slice(c, s, e, a, t) y = Conv(d, v) }""")
    line = found.labels["w"][0]
    smaller = check(graph, found, line[[1, 4]])
    assert [edit.op(node) for node in smaller.nodes] == ["Conv", "Slice", "Gather", "Conv"]
    smaller = check(graph, found, line[[1, 3, 5, 7]])
    assert [edit.op(node) for node in smaller.nodes] == ["Conv", "Slice", "Conv"]


@pytest.mark.parametrize("opset", [11, 17, 18])
def test_halves_that_are_no_halves_any_more(opset):
    count = ", num_outputs=2" if opset == 18 else ""
    text = (
        HEAD.replace("17", str(opset))
        + f"""g (float[N,4,8,8] x) => (float[N,2,8,8] y)
    <float[8,4,1,1] w, float[2,4,1,1] v, float[2,4,1,1] u>
    {{ c = Conv(x, w) d, e = Split<axis=1{count}>(c) f = Conv(d, v) h = Conv(e, u) y = Add(f, h) }}"""
    )
    graph = from_proto(read_model(text))
    annotate(graph)
    found = channel_groups(graph)
    check(graph, found, found.labels["w"][0][[0, 1, 5]])


def test_shapes_that_are_computed():
    """What is computed from the shape of a tensor that shrinks stays what it was; what has to shrink, does."""
    graph, found = prepared("""g (float[N,4,H,8] x) => (float[N,2,H,8] y, int64[4] z)
    <float[8,4,1,1] w, float[2,8,1,1] v, int64[1] n = {0}, int64[1] m = {1}, int64[1] o = {2}, int64[1] p = {4},
     int64[1] k = {-1}>
    { c = Conv(x, w) s = Shape(c) a = Slice(s, n, m) b = Slice(s, m, o) d = Slice(s, o, p) t = Concat<axis=0>(a, b, k)
      f = Reshape(c, t) u = Concat<axis=0>(a, b, d) h = Reshape(f, u) y = Conv(h, v) z = Identity(s) }""")
    assert len(found.groups[1]) == 8
    smaller = clone(graph)
    remove(smaller, found, found.groups[1].channels[:3])
    feeds = {"x": np.ones([2, 4, 8, 8], dtype=np.float32)}
    got, want = (Session(to_proto(g)).run(feeds) for g in (smaller, zeroed(graph, found, found.groups[1].channels[:3])))
    assert got["z"].tolist() == want["z"].tolist() == [2, 8, 8, 8]
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("opset", "body", "weights"),
    [
        (9, "c = Slice<axes=[1], starts=[2], ends=[7]>(a) y = Conv(c, v)", "float[2,5,1,1] v"),
        (9, "c = Slice<starts=[0, 1], ends=[99, 6]>(a) y = Conv(c, v)", "float[2,5,1,1] v"),
        (9, "c = Pad<pads=[0, 1, 0, 0, 0, 2, 0, 0]>(a) y = Conv(c, v)", "float[2,11,1,1] v"),
        (9, "c = Upsample(a, z) y = Conv(c, v)", "float[2,8,1,1] v, float[4] z = {1, 1, 2, 2}"),
        (9, "c = Clip<min=0.0, max=6.0>(a) y = Conv(c, v)", "float[2,8,1,1] v"),
        (9, "c = ReduceSum<axes=[2,3], keepdims=0>(a) d = Unsqueeze<axes=[2,3]>(c) y = Conv(d, v)", "float[2,8,1,1] v"),
        (18, "c = Pad(a, n, , k) y = Conv(c, v)", "float[2,11,1,1] v, int64[2] n = {1, 2}, int64[1] k = {1}"),
        (18, "c = Resize<axes=[1, 2]>(a, , , n) y = Conv(c, v)", "float[2,8,1,1] v, int64[2] n = {8, 16}"),
        (17, "s = Shape(a) z = ConstantOfShape(s) c = Concat<axis=1>(a, z) y = Conv(c, v)", "float[2,16,1,1] v"),
        (17, "z = ConstantOfShape(s) c = Concat<axis=1>(a, z) y = Conv(c, v)",
         "float[2,12,1,1] v, int64[4] s = {2, 4, 8, 8}"),
        (17, "s = Shape(a) z = Expand(k, s) c = Mul(a, z) y = Conv(c, v)", "float[2,8,1,1] v, float k = {2}"),
        (17, "z = Expand(k, s) c = Mul(a, z) y = Conv(c, v)",
         "float[2,8,1,1] v, float[1,1,1] k = {2}, int64[4] s = {1, 8, 1, 1}"),
        (17, "s = Shape<start=1, end=3>(a) f = Cast<to=1>(s) g = ReduceMean(f) c = Mul(a, g) y = Conv(c, v)",
         "float[2,8,1,1] v"),
        (17, "c = Gather<axis=1>(a, i) d = Mul(b, c) e = Unsqueeze(d, k) y = Conv(e, v)",
         "int64 i = {3}, int64[1] k = {1}, float b, float[2,1,1,1] v"),
        (17, "c = Conv<kernel_shape=[1,1], group=8>(a, d) e = Conv<group=8>(c, f) y = Conv(e, v)",
         "float[8,1,1,1] d, float[16,1,3,3] f, float[2,16,1,1] v"),
        (17, "c = ConvTranspose<group=4>(a, d, e) y = Conv(c, v)", "float[8,3,2,2] d, float[12] e, float[2,12,1,1] v"),
    ],
)  # fmt: skip
def test_forms_of_operators(opset, body, weights):
    """Attributes of old opsets, axes that are named, sizes that are computed."""
    graph = from_proto(
        read_model(
            f"""<ir_version: 8, opset_import: ["": {opset}]>
            g (float[2,4,8,8] x) => (float[2,2,H,W] y) <float[8,4,1,1] w, {weights}> {{ a = Conv(x, w) {body} }}"""
        )
    )
    annotate(graph)
    found = channel_groups(graph)
    free = [group for group in found.groups if group.pinned is None]
    assert free
    for group in free:
        check(graph, found, group.channels[: max(1, len(group) // 2)])


def test_masks_change_what_a_channel_says():
    graph, found = prepared(PLAIN)
    masked = zeroed(graph, found, found.groups[1].channels[:2])
    with pytest.raises(AssertionError, match="differs"):
        assert_equivalent(to_proto(graph), to_proto(masked), dims={"N": 2})
    assert "Where" not in {edit.op(node) for node in graph.nodes}


def test_vectors_that_are_shared_can_be_told_apart():
    graph, found = prepared("""g (float[N,4,8,8] x) => (float[N,2,8,8] y)
    <float[6,4,1,1] w, float[6,6,1,1] v, float[6] zero = {0, 0, 0, 0, 0, 0}, float[2,6,1,1] u>
    { a = Conv(x, w, zero) b = Relu(a) c = Conv(b, v, zero) y = Conv(c, u) }""")
    assert [len(group) for group in found.groups if group.pinned is None] == [6]
    before = to_proto(graph)
    unshare(graph)
    found = channel_groups(graph)
    assert [len(group) for group in found.groups if group.pinned is None] == [6, 6]
    assert_equivalent(before, to_proto(graph), dims={"N": 2})
    smaller = check(graph, found, found.groups[1].channels[:2])
    assert [node.inputs[2].shape[0] for node in smaller.nodes if len(node.inputs) == 3] == [4, 6]


NAMES = (
    "cifar10_resnet20_jpegft", "mlperf_resnet8_cifar10", "fashion_mnist_vgg", "mobilenetv2_imagenet",
    "squeezenet1_1_imagenet", "fastestdet_coco", "ultraface_rfb320", "deeplabv3_mnv2_dm05_person",
    "ppocr_mobile_v2_cls",
)  # fmt: skip
FREE = dict(zip(NAMES, (12, 6, 6, 25, 25, 87, 25, 27, 26), strict=True))
DIMS = {"N": 1, "batch": 2}


@pytest.fixture(scope="session")
def real(zoo):
    """Function that gives a real network, as it is or after the exact passes, and its channels."""

    def made(name, *, exact):
        graph = load(zoo.model(name))
        run_pipeline(graph, Pipeline.parse("exact" if exact else "freeze-inputs"), Context())
        return graph, channel_groups(graph)

    return made


def some(group, found, rng):
    count = max(1, int(len(group) * rng.uniform(0.1, 0.6)))
    chosen = rng.permutation(group.channels)[:count]
    return chosen[:1] if found.emptied(chosen) else chosen


@pytest.mark.parametrize("exact", [False, True], ids=["raw", "exact"])
@pytest.mark.parametrize("name", NAMES)
def test_real_networks(real, name, exact):
    graph, found = real(name, exact=exact)
    rng = np.random.default_rng(0)
    free = [group for group in found.groups if group.pinned is None]
    assert len(free) == FREE[name] or not exact
    chosen = [some(group, found, rng) for group in free]
    together = np.concatenate(chosen)
    if not found.emptied(together):
        check(graph, found, together)
    check(graph, found, chosen[int(rng.integers(len(chosen)))])


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True], ids=["raw", "exact"])
@pytest.mark.parametrize("name", NAMES)
def test_each_group_of_real_networks(real, name, exact):
    graph, found = real(name, exact=exact)
    rng = np.random.default_rng(1)
    for group in found.groups:
        if group.pinned is None:
            check(graph, found, some(group, found, rng))
