from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes.prune import unshare
from lpcc.passes.reconstruct.reading import RIDGE
from lpcc.runtime import Session, TensorSpec

_RNG = np.random.default_rng(1)


def normal(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


X = normal(40, 2, 5, 5)
CHAIN = "(float[N,2,5,5] x) => (float[N,2,5,5] y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }"
DEEP = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) t = Relu(c) y = Conv(t, u) }"""
RESIDUAL = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) c = Conv(a, v) p = BatchNormalization(c, g, h, m, s) e = Add(a, p) t = Relu(e) y = Conv(t, u) }"""


def twins(*shape, first=0, second=1):
    """Weights of which two rows are equal."""
    w = normal(*shape)
    w[second] = w[first]
    return w


def squares(case, graph):
    """Error of the outputs in squares, a share of the signal."""
    whole, other, error, signal = Session(to_proto(case.graph)), Session(to_proto(graph)), 0.0, 0.0
    for batch in case.data.batches(8):
        for name, expected in whole.run(batch.feeds).items():
            error += float(np.square(other.run(batch.feeds)[name].astype(float) - expected).sum())
            signal += float(np.square(expected.astype(float)).sum())
    return error / signal


def test_layers_that_lose_nothing_by_it_are_lossless(network, patient):
    graph = network(DEEP, w=twins(4, 2, 1, 1), v=normal(5, 4, 1, 1), u=normal(2, 5, 1, 1))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["c", "y"]
    assert case.error(case.cut()) > 0.1
    assert case.error(pruned) < 0.02


def test_the_fit_of_a_linear_layer_is_that_of_least_squares(network, patient, values):
    w, v, c = normal(5, 2, 1, 1), normal(3, 5, 1, 1), normal(3)
    body = CHAIN.replace("Conv(x, w, b)", "Conv(x, w)").replace("float[N,2,5,5] y", "float[N,3,5,5] y")
    case = patient(network(body.replace("Conv(r, v)", "Conv(r, v, c)"), w=w, v=v, c=c), "a", [0, 3], x=X)
    pruned, names = case.layerwise()
    assert names == ["y"]
    r = np.maximum(np.einsum("nchw,mc->nhwm", X, w[:, :, 0, 0]), 0).reshape(-1, 5).astype(float)
    left, matrix = r[:, [1, 2, 4]], v[:, :, 0, 0].T.astype(float)
    centred, wanted = left - left.mean(axis=0), r @ matrix + c
    ridge = np.sqrt(RIDGE * centred.var(axis=0).mean() * len(r))
    rows = np.concatenate([centred, ridge * np.eye(3)])
    expected = np.linalg.lstsq(
        rows, np.concatenate([wanted - wanted.mean(axis=0), ridge * matrix[[1, 2, 4]]]), rcond=None
    )[0]
    np.testing.assert_allclose(values(pruned, "v")[:, :, 0, 0].T, expected, rtol=0.03, atol=0.01)
    bias = wanted.mean(axis=0) - left.mean(axis=0) @ expected
    np.testing.assert_allclose(values(pruned, "c"), bias, rtol=0.03, atol=0.03)


def test_later_layers_make_good_what_earlier_ones_lost(network, patient):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        w, v, u = (rng.standard_normal(shape) for shape in ((6, 2, 1, 1), (6, 6, 1, 1), (2, 6, 1, 1)))
        case = patient(network(DEEP, w=w, v=v, u=u), "a", [0, 2], x=X)
        assert squares(case, case.layerwise()[0]) < squares(case, case.local()[0])


@pytest.mark.parametrize("norm", [True, False])
def test_a_layer_makes_good_what_the_branch_that_it_is_added_to_lost(network, patient, monkeypatch, norm):
    """The weights of the other branch are computed, so it cannot be refitted; what it lost this one can make of r."""
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) i = Mul(v, two) c = Conv(r, i)
      k = Conv(r, n) q = BatchNormalization(k, g, h, m, s) f = Add(c, q) z = Relu(f) y = Conv(z, u) }"""
    kinds = {"g": normal(6) + 3, "h": normal(6), "m": normal(6), "s": np.array([0.5, 1, 2, 1, 1, 1])} if norm else {}
    body = body if norm else body.replace("q = BatchNormalization(k, g, h, m, s) f = Add(c, q)", "f = Add(k, c)")
    w, v, n, u = twins(6, 2, 1, 1), normal(6, 6, 1, 1), normal(6, 6, 1, 1), normal(2, 6, 1, 1)
    graph = network(body, w=w, v=v, two=np.float32(2), n=n, u=u, **kinds)
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["k", "y"]
    with monkeypatch.context() as patch:
        patch.setattr("lpcc.passes.reconstruct.in_order.InOrder._branch", lambda *_: None)
        alone, _ = case.layerwise()
    assert 20 * squares(case, pruned) < squares(case, alone)


def test_the_second_of_two_layers_that_are_added_makes_good_what_the_first_lost(network, patient):
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) d = Conv(x, k) e = Add(c, d) t = Relu(e) y = Conv(t, u) }"""
    graph = network(body, w=normal(4, 2, 1, 1), v=normal(4, 4, 1, 1), k=normal(4, 2, 1, 1), u=normal(2, 4, 1, 1))
    case = patient(graph, "a", [1], x=X)
    linear = graph.tensors()["k"].values
    pruned, names = case.layerwise()
    assert names == ["c", "y"]  # d depends on nothing that was lost
    np.testing.assert_array_equal(pruned.tensors()["k"].values, linear)
    body = body.replace("d = Conv(x, k)", "d = Conv(r, k)")
    graph = network(body, w=normal(4, 2, 1, 1), v=normal(4, 4, 1, 1), k=normal(4, 4, 1, 1), u=normal(2, 4, 1, 1))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["c", "d", "y"]
    assert squares(case, pruned) < squares(case, case.cut())


def test_layers_out_of_order_shared_weights_and_names(network, patient, values):
    """Nodes whose names say another node, a layer that is read by one before it in the file, weights of two layers."""
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y, float[N,2,5,5] z)
    { a = Conv(x, w) r = Relu(a) q = Conv(r, k) f = Relu(q) c = Conv(r, v) d = Conv(f, v) t = Relu(c) e = Mul(d, t)
      y = Conv(e, u) z = Conv(t, n) }"""
    graph = network(
        body,
        w=twins(4, 2, 1, 1),
        k=normal(4, 4, 1, 1),
        v=normal(4, 4, 1, 1),
        u=normal(2, 4, 1, 1),
        n=normal(2, 4, 1, 1),
    )
    graph.nodes[-1].name = "q"
    graph.nodes[0].name = "y"
    case = patient(graph, "w", [1], axis=0, x=X)
    pruned, names = case.layerwise()
    assert names == ["q", "y", "q"]
    assert squares(case, pruned) < squares(case, case.cut())
    np.testing.assert_array_equal(
        values(pruned, "v"), np.delete(values(graph, "v"), 1, axis=1)[: len(values(pruned, "v"))]
    )


def test_other_layers_are_left_alone(network, patient, values):
    """A transposed convolution, weights that are computed, layers before what was lost."""
    body = """(float[N,2,5,5] x) => (float[N,2,6,6] y)
    { o = Conv(x, n) a = Conv(o, w) r = Relu(a) i = Mul(v, two) c = Conv(r, i) t = Relu(c) y = ConvTranspose(t, u) }"""
    graph = network(
        body, n=normal(2, 2, 1, 1), w=twins(4, 2, 1, 1), v=normal(4, 4, 1, 1), two=np.float32(2), u=normal(4, 2, 2, 2)
    )
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == []
    np.testing.assert_array_equal(values(pruned, "n"), values(graph, "n"))
    np.testing.assert_array_equal(values(pruned, "u"), values(graph, "u"))
    Session(to_proto(pruned)).run({"x": X})


@pytest.mark.parametrize("power", [13, 38])
def test_numbers_that_are_not_finite_change_nothing(network, patient, values, power):
    v = normal(2, 4, 1, 1)
    body = CHAIN.replace("r = Relu(a)", "e = Mul(a, big) r = Mul(e, big)")
    graph = network(body, w=normal(4, 2, 1, 1), b=np.zeros(4), v=v, big=np.float32(10.0**power))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == []
    np.testing.assert_array_equal(values(pruned, "v"), np.delete(v, 1, axis=1))
    assert np.isfinite(values(pruned, "w")).all()


def test_half_precision(network, patient, values):
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { h = Cast<to=10>(x) a = Conv(h, w) r = Relu(a) q = Conv(r, v) y = Cast<to=1>(q) }"""
    half = np.float16
    graph = network(body, w=(30 * twins(4, 2, 1, 1)).astype(half), v=normal(2, 4, 1, 1).astype(half))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["q"]
    assert values(pruned, "v").dtype == half
    assert case.error(pruned) < 0.05


def test_an_axis_that_does_not_count_images(network, patient):
    body = """(float[4,2,5,5] x) => (float[4,3] y, float[6,3] z)
    { a = Conv(x, w) r = Relu(a) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, v)
      p = Gemm(f, q) t = Transpose(p) h = Relu(t) k = Reshape(h, s) z = MatMul(k, u) }"""
    graph = network(body, w=twins(5, 2, 1, 1), v=normal(5, 3), q=normal(5, 6), s=np.array([6, 4]), u=normal(4, 3))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["y", "p"]
    assert case.error(pruned) < 0.02


def test_sums_that_spread_are_no_branches(network, patient):
    """What is added to each place of a map is not what the map's layer can make good."""
    body = """(float[N,2,h,h] x) => (float[N,2,h,h] y)
    { a = Conv(x, w) g = GlobalAveragePool(a) c = Conv(g, v) e = Add(a, c) t = Relu(e) y = Conv(t, u) }"""
    graph = network(body, w=normal(4, 2, 1, 1), v=normal(4, 4, 1, 1), u=normal(2, 4, 1, 1))
    for tensor in graph.tensors().values():
        if tensor.shape is not None and tensor.name in "ace":
            tensor.shape = ["N", 4, None, None]  # nothing is known
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["c", "y"]
    assert squares(case, pruned) < squares(case, case.cut())


def test_a_result_that_is_an_output_too_is_not_bent_for_a_branch(network, patient):
    body = RESIDUAL.replace("(float[N,2,5,5] y)", "(float[N,2,5,5] y, float[N,3,5,5] k)")
    body = body.replace("e = Add(a, p)", "k = Conv(a, j) e = Add(a, p)")
    graph = network(
        body, w=normal(4, 2, 1, 1), v=normal(4, 4, 1, 1), u=normal(2, 4, 1, 1), g=normal(4) + 3, h=normal(4),
        m=normal(4), s=np.ones(4), j=normal(3, 4, 1, 1),
    )  # fmt: skip
    case = patient(graph, "a", [1], x=X)
    pruned, _ = case.layerwise()
    assert squares(case, pruned) < squares(case, case.cut())


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_images(network, patient, count):
    body = CHAIN.replace("float[N,2,5,5] y", "float[N,2,3,3] y")
    graph = network(body, w=twins(8, 2, 1, 1), b=np.zeros(8), v=normal(2, 8, 3, 3))
    case = patient(graph, "a", [1], x=X[:count])
    pruned, names = case.layerwise()
    assert names == ["y"]
    assert squares(case, pruned) < squares(case, case.cut())


def test_a_fixed_batch_that_images_do_not_fill(network, patient, values):
    w, b, v = twins(4, 2, 1, 1), normal(4), normal(2, 4, 1, 1)
    made = []
    for batch in ("N", "1", "7"):
        case = patient(network(CHAIN.replace("[N,", f"[{batch},"), w=w, b=b, v=v), "a", [2], x=X)
        made.append(values(case.layerwise()[0], "v"))
    np.testing.assert_allclose(made[1], made[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(made[2], made[0], rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_comes_out_is_a_model_that_runs(random_network, patient, data):
    model = random_network(data.draw)
    graph = from_proto(model)
    annotate(graph)
    unshare(graph)
    annotate(graph)
    found = channel_groups(graph)
    free = [group for group in found.groups if group.pinned is None and len(group) > 1]
    if not free:
        return
    gone = np.concatenate([group.channels[: len(group) // 2] for group in free])
    if found.emptied(gone):
        gone = free[0].channels[: len(free[0]) // 2]
    images = Dataset.from_arrays(
        {"x": np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)},
        inputs=TensorSpec.inputs_of(to_proto(graph)),
    )
    case = patient.of(graph, found, gone, images)
    for pruned, _ in (case.local(), case.layerwise(), case.biases()):
        made = to_proto(pruned)
        onnx.checker.check_model(made, full_check=True)
        session = Session(made)
        for batch in images.batches(2):
            assert all(np.isfinite(value).all() for value in session.run(batch.feeds).values())


def test_what_a_subgraph_reads_counts_as_read(network, patient):
    """A layer behind an If, whose branches read what is behind a loss, is refitted too."""
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) g = If<
        then_branch = one () => (float[N,3,5,5] p) { p = Relu(c) },
        else_branch = two () => (float[N,3,5,5] q) { q = Sigmoid(c) }>(yes) y = Conv(g, u) }"""
    graph = network(body, w=twins(4, 2, 1, 1), v=normal(3, 4, 1, 1), u=normal(2, 3, 1, 1), yes=np.array(True))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names == ["c", "y"]
    assert squares(case, pruned) < squares(case, case.cut())


def test_layers_that_one_cannot_halt_at_stay(network, patient):
    """A sequence of tensors waits while they are computed."""
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) s = SequenceConstruct(c, c) p = SequenceAt(s, zero) k = Conv(p, n)
      t = Relu(k) q = SequenceAt(s, one) e = Add(t, q) y = Conv(e, u) }"""
    graph = network(
        body, w=twins(4, 2, 1, 1), v=normal(3, 4, 1, 1), n=normal(3, 3, 1, 1), u=normal(2, 3, 1, 1), zero=np.array(0),
        one=np.array(1),
    )  # fmt: skip
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.layerwise()
    assert names[0] == "c"
    assert squares(case, pruned) < squares(case, case.cut())
