from __future__ import annotations

import numpy as np
import pytest

from lpcc.analysis.groups import channel_groups
from lpcc.data import Dataset
from lpcc.graph import clone, to_proto
from lpcc.passes.prune import remove
from lpcc.passes.prune.repair import readings, refit_readers
from lpcc.passes.prune.repair.local import outputs_left
from lpcc.passes.reconstruct import Reading, Sums, sums_of
from lpcc.passes.reconstruct.reading import RIDGE
from lpcc.pipeline import Context
from lpcc.runtime import Session, TensorSpec

_RNG = np.random.default_rng(0)


def normal(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


X = normal(40, 2, 5, 5)
CHAIN = "(float[N,2,5,5] x) => (float[N,2,5,5] y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }"


def twins(*shape, first=0, second=1):
    """Weights of which two rows are equal."""
    w = normal(*shape)
    w[second] = w[first]
    return w


def test_one_of_two_equal_channels_is_no_loss(network, patient, values):
    v = normal(2, 4, 3, 3)
    graph = network(CHAIN.replace("Conv(r, v)", "Conv<pads=[1,1,1,1]>(r, v)"), w=twins(4, 2, 1, 1), b=np.zeros(4), v=v)
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.local()
    assert case.error(case.cut()) > 0.1
    assert case.error(pruned) < 5e-3
    assert names == ["y"]
    np.testing.assert_allclose(values(pruned, "v")[:, 0], v[:, 0] + v[:, 1], atol=0.05)  # a little less, for the ridge
    np.testing.assert_allclose(values(pruned, "v")[:, 1:], v[:, 2:], atol=0.05)


def test_the_fit_is_that_of_least_squares(network, patient, values):
    """Against numpy's, with the ridge as rows of its own."""
    w, b, v, c = normal(5, 2, 1, 1), normal(5), normal(3, 5, 1, 1), normal(3)
    body = CHAIN.replace("float[N,2,5,5] y", "float[N,3,5,5] y").replace("Conv(r, v)", "Conv(r, v, c)")
    case = patient(network(body, w=w, b=b, v=v, c=c), "a", [0, 3], x=X)
    pruned, _ = case.local()
    r = np.maximum(np.einsum("nchw,mc->nhwm", X, w[:, :, 0, 0]) + b, 0).reshape(-1, 5).astype(float)
    centred, matrix, left = r - r.mean(axis=0), v[:, :, 0, 0].T.astype(float), [1, 2, 4]
    ridge = np.sqrt(RIDGE * centred.var(axis=0).mean() * len(r))
    rows = np.concatenate([centred, ridge * np.eye(5)])
    expected = np.linalg.lstsq(rows[:, left], rows @ matrix, rcond=None)[0]
    np.testing.assert_allclose(values(pruned, "v")[:, :, 0, 0].T, expected, rtol=3e-3, atol=1e-3)
    bias = c + r.mean(axis=0) @ matrix - r.mean(axis=0)[left] @ expected
    np.testing.assert_allclose(values(pruned, "c"), bias, rtol=3e-3, atol=1e-3)


def test_a_layer_without_bias_gets_one(network, patient):
    graph = network(
        CHAIN, w=np.concatenate([normal(3, 2, 1, 1), np.zeros((1, 2, 1, 1))]), b=np.ones(4), v=normal(2, 4, 1, 1)
    )
    for fix in ("local", "biases"):
        case = patient(graph, "a", [3], x=X)
        pruned, names = getattr(case, fix)()
        assert names == ["y"]
        assert case.error(case.cut()) > 0.05
        assert case.error(pruned) < 1e-5  # what is constant is a bias


def test_biases_make_up_for_means_alone(network, patient, values):
    v, c = normal(3, 4, 1, 1), normal(3)
    body = CHAIN.replace("float[N,2,5,5] y", "float[N,3,5,5] y").replace("Conv(r, v)", "Conv(r, v, c)")
    w, b = normal(4, 2, 1, 1), normal(4)
    case = patient(network(body, w=w, b=b, v=v, c=c), "a", [2], x=X)
    pruned, _ = case.biases()
    mean = np.maximum(np.einsum("nchw,mc->nmhw", X, w[:, :, 0, 0]) + b[:, None, None], 0)[:, 2].mean()
    np.testing.assert_allclose(values(pruned, "v"), np.delete(v, 2, axis=1))
    np.testing.assert_allclose(values(pruned, "c"), c + mean * v[:, 2, 0, 0], rtol=1e-4, atol=1e-4)


def test_a_gemm_behind_flatten_has_many_columns_of_a_channel(network, patient):
    body = """(float[N,2,7,7] x) => (float[N,3] y)
    { a = Conv(x, w) r = Relu(a) f = Flatten(r) y = Gemm<beta=0.5, transB=1>(f, v, c) }"""
    graph = network(body, w=twins(4, 2, 1, 1), v=normal(3, 4 * 49), c=normal(3))
    case = patient(graph, "a", [1], x=normal(400, 2, 7, 7))
    pruned, names = case.local()
    assert names == ["y"]
    assert pruned.tensors()["v"].shape == (3, 3 * 49)
    assert case.error(case.cut()) > 0.1
    assert case.error(pruned) < 0.02


def test_a_matmul_without_bias(network, patient):
    body = "(float[N,5,2] x) => (float[N,5,3] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    graph = network(body, w=twins(4, 2).T, v=normal(4, 3))
    case = patient(graph, "a", [1], axis=2, x=normal(60, 5, 2))
    pruned, names = case.local()
    assert names == ["y"]
    assert case.error(case.cut()) > 0.1
    assert case.error(pruned) < 0.05
    assert [node.op for node in pruned.nodes] == ["MatMul", "Relu", "MatMul"]
    assert case.biases()[1] == []  # it has no place for one


def test_a_matmul_that_keeps_its_outputs_while_rows_go(network, patient):
    body = """(float[N,2,5,5] x) => (float[N,3] y)
    { a = Conv(x, w) r = Relu(a) f = Reshape(r, s) m = MatMul(f, u) t = Transpose<perm=[0,2,1]>(m) z = MatMul(t, v)
      q = ReduceMean<axes=[1], keepdims=0>(z) y = Identity(q) }"""
    s = np.array([0, 6, 25])
    graph = network(body, w=twins(6, 2, 1, 1), s=s, u=normal(25, 6), v=normal(6, 3))
    case = patient(graph, "a", [1, 2], x=X)
    assert sorted(case.found.kept(case.channels)["m"]) == [1]
    pruned, names = case.local()
    assert names == ["z"]
    assert case.error(pruned) < case.error(case.cut())


def test_the_last_axis_of_a_product_is_that_of_its_outputs(network):
    """What is lost along another axis of the result, even of the same length, is none of its outputs."""
    body = """(float[N,2,5,5] x) => (float[N,4,4] y)
    { a = Conv(x, w) r = Relu(a) f = Reshape(r, s) m = MatMul(f, u) h = Transpose<perm=[0,2,1]>(m)
      y = MatMul(h, v) }"""
    graph = network(body, w=normal(4, 2, 1, 1), s=np.array([0, 4, 25]), u=normal(25, 4), v=normal(4, 4))
    found = channel_groups(graph)
    kept = found.kept(found.labels["a"][1][[1]])
    by_name = {node.outputs[0].name: node for node in graph.nodes}
    assert sorted(kept["m"]) == [1]
    assert outputs_left(kept, Reading.of(by_name["m"])).all()  # four rows went down to three, four outputs did not


def test_several_readers_and_a_batch_norm_behind_one(network, patient):
    body = """(float[N,2,5,5] x) => (float[N,3,5,5] y, float[N,2,5,5] z)
    { a = Conv(x, w) r = Relu(a) p = Conv(r, v) y = BatchNormalization(p, g, h, m, s) q = Conv(r, u, c) z = Relu(q) }"""
    graph = network(
        body, w=twins(4, 2, 1, 1), v=normal(3, 4, 1, 1), u=normal(2, 4, 1, 1), c=normal(2), g=normal(3), h=normal(3),
        m=normal(3), s=np.array([0.5, 1, 2]),
    )  # fmt: skip
    case = patient(graph, "a", [0], x=X)
    pruned, names = case.local()
    assert names == ["p", "q"]
    assert case.error(case.cut()) > 0.1
    assert case.error(pruned) < 5e-3


def test_a_convolution_in_groups(network, patient):
    body = """(float[N,2,5,5] x) => (float[N,4,5,5] y)
    { a = Conv(x, w) r = Relu(a) y = Conv<group=2, pads=[1,1,1,1]>(r, v) }"""
    w = normal(6, 2, 1, 1)
    w[1], w[4] = w[0], w[3]
    graph = network(body, w=w, v=normal(4, 3, 3, 3))
    case = patient(graph, "a", [1, 4], x=X)
    pruned, names = case.local()
    assert names == ["y"]
    assert pruned.tensors()["v"].shape == (4, 2, 3, 3)
    assert case.error(case.cut()) > 0.1
    assert case.error(pruned) < 5e-3


def test_what_is_left_of_outputs_that_go_too(network, patient):
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v, b) t = Relu(c) y = Conv(t, u) }"""
    v, u = twins(6, 4, 1, 1, first=2, second=5), normal(2, 6, 1, 1)
    graph = network(body, w=twins(4, 2, 1, 1), v=v, b=np.zeros(6), u=u)
    found = channel_groups(graph)
    case = patient(graph, "a", [1], x=X)
    both = type(case)(graph, found, np.concatenate([found.labels["a"][1][[1]], found.labels["c"][1][[5]]]), case.data)
    pruned, names = both.local()
    assert names == ["c", "y"]
    assert pruned.tensors()["v"].shape == (5, 3, 1, 1)
    assert both.error(both.cut()) > 0.1
    assert both.error(pruned) < 0.02


def test_shared_weights_and_biases(network, patient, values):
    """Weights of two layers stay; a bias that is shared is given to one alone."""
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y, float[N,2,5,5] z, float[N,2,5,5] o)
    { a = Conv(x, w) r = Relu(a) y = Conv(r, v) p = Conv(x, w2) q = Relu(p) e = Add(r, q) z = Conv(e, v)
      o = Conv(r, u, c) k = Conv(x, t, c) }"""
    body = body.replace("o = Conv(r, u, c) k = Conv(x, t, c)", "k = Conv(r, u, c) l = Conv(x, t, c) o = Add(k, l)")
    v, c = normal(2, 4, 1, 1), normal(2)
    graph = network(
        body, w=twins(4, 2, 1, 1), w2=normal(4, 2, 1, 1), v=v, u=normal(2, 4, 1, 1), t=normal(2, 2, 1, 1), c=c
    )
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.local()
    assert names == ["k"]
    np.testing.assert_array_equal(values(pruned, "v"), np.delete(v, 1, axis=1))
    nodes = {node.outputs[0].name: node for node in pruned.nodes}
    np.testing.assert_array_equal(nodes["l"].inputs[2].values, c)
    assert nodes["k"].inputs[2].name != "c"
    Session(to_proto(pruned))


def test_names_of_nodes_do_not_matter(network, patient, values):
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) t = Relu(c) y = Conv(t, u) }"""
    graph = network(body, w=twins(4, 2, 1, 1), v=normal(4, 4, 1, 1), u=normal(2, 4, 1, 1))
    graph.nodes[-1].name = "c"  # what the one without a name goes by
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.local()
    assert names == ["c"]
    assert case.error(pruned) < 5e-3


def test_half_precision(network, patient, values):
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { h = Cast<to=10>(x) a = Conv(h, w) r = Relu(a) q = Conv(r, v) y = Cast<to=1>(q) }"""
    half = np.float16
    graph = network(body, w=(30 * twins(4, 2, 1, 1)).astype(half), v=normal(2, 4, 1, 1).astype(half))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.local()
    assert names == ["q"]
    assert values(pruned, "v").dtype == half
    assert case.error(pruned) < 0.01


def test_what_does_not_fit_the_type_is_left(network, patient, values):
    body = """(float[N,2,5,5] x) => (float[N,2,5,5] y)
    { h = Cast<to=10>(x) a = Conv(h, w) r = Relu(a) q = Conv(r, v) y = Cast<to=1>(q) }"""
    w, half = 1e-3 * twins(4, 2, 1, 1), np.float16
    w[0] *= 0.01
    w[1] = 100 * w[0]  # to take its place, the other would need a hundred times its weight
    v = normal(2, 4, 1, 1)
    v[:, 1] = 6e4
    case = patient(network(body, w=w.astype(half), v=v.astype(half)), "a", [1], x=50 * X)
    sums = {name: Sums(s.gram + 0, s.mean) for name, s in _sums(case).items()}
    pruned = case.cut()
    layers = readings(case.graph, case.found)
    sums["q"].gram[:] = np.array([[1, 100, 0, 0], [100, 1e4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) * 1e4
    sums["q"].gram[0, 0, 0] += 10
    assert refit_readers(pruned, case.found, case.channels, layers, sums) == []
    np.testing.assert_array_equal(values(pruned, "v"), np.delete(v, 1, axis=1).astype(half))
    assert refit_readers(case.cut(), case.found, case.channels, layers, {}) == []


def _sums(case):
    return sums_of(case.graph, [layer for layer, _ in readings(case.graph, case.found).values()], case.data, Context())


@pytest.mark.parametrize("power", [13, 38])
def test_numbers_that_are_not_finite_change_nothing(network, patient, values, power):
    """An overflow in the network, of some images: no weight becomes NaN."""
    v = normal(2, 4, 1, 1)
    body = CHAIN.replace("r = Relu(a)", "e = Mul(a, big) r = Mul(e, big)")
    graph = network(body, w=normal(4, 2, 1, 1), b=np.zeros(4), v=v, big=np.float32(10.0**power))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.local()
    assert names == []
    np.testing.assert_array_equal(values(pruned, "v"), np.delete(v, 1, axis=1))


def test_an_axis_that_does_not_count_images(network, patient):
    """Rows of a transposed product are left out; what else there is is refitted."""
    body = """(float[4,2,5,5] x) => (float[4,3] y, float[6,3] z)
    { a = Conv(x, w) r = Relu(a) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, v)
      p = Gemm(f, q) t = Transpose(p) h = Relu(t) k = Reshape(h, s) z = MatMul(k, u) }"""
    graph = network(body, w=twins(5, 2, 1, 1), v=normal(5, 3), q=normal(5, 6), s=np.array([6, 4]), u=normal(4, 3))
    case = patient(graph, "a", [1], x=X)
    pruned, names = case.local()
    assert names == ["y", "p"]
    assert case.error(pruned) < 0.01


def test_fewer_images_than_numbers_of_a_row(network, patient):
    graph = network(CHAIN, w=twins(8, 2, 1, 1), b=normal(8), v=normal(2, 8, 3, 3))
    graph = network(CHAIN.replace("float[N,2,5,5] y", "float[N,2,3,3] y"), w=twins(8, 2, 1, 1), b=np.zeros(8),
                    v=normal(2, 8, 3, 3))  # fmt: skip
    case = patient(graph, "a", [1], x=X[:1])
    pruned, _ = case.local()
    assert case.error(pruned) < case.error(case.cut())


def test_layers_that_are_zero_say_nothing(network, patient, values):
    v = normal(2, 4, 1, 1)
    case = patient(network(CHAIN, w=np.zeros((4, 2, 1, 1)), b=-np.ones(4), v=v), "a", [1], x=X)
    pruned, _ = case.local()
    np.testing.assert_allclose(values(pruned, "v"), np.delete(v, 1, axis=1), rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_error_on_what_was_summed_up_never_grows(network, patient, seed):
    """In squares, over the rows that the layer reads: damped as the fit is."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 9))
    w, v = rng.standard_normal((count, 2, 1, 1)), rng.standard_normal((3, count, 3, 3))
    x = (10.0 ** rng.integers(-4, 4) * rng.standard_normal((int(rng.integers(1, 9)), 2, 5, 5))).astype(np.float32)
    body = CHAIN.replace("float[N,2,5,5] y", "float[N,3,3,3] y")
    graph = network(body, w=w, b=rng.standard_normal(count), v=v)
    gone = rng.permutation(count)[: int(rng.integers(1, count))].tolist()
    case = patient(graph, "a", gone, x=x)

    def squares(other):
        a, b = Session(to_proto(graph)), Session(to_proto(other))
        expected = a.run({"x": x})["y"].astype(float)
        return float(np.square(expected - b.run({"x": x})["y"]).sum() / np.square(expected).sum())

    assert squares(case.local()[0]) <= squares(case.biases()[0]) * (1 + 1e-3) + 1e-7
    assert squares(case.biases()[0]) <= squares(case.cut()) * (1 + 1e-3) + 1e-7


def test_the_batch_of_a_model_that_fixes_it_does_not_matter(network):
    w, b, v = normal(4, 2, 1, 1), normal(4), normal(2, 4, 1, 1)
    made = []
    for batch in ("N", "1", "6"):
        graph = network(CHAIN.replace("[N,", f"[{batch},"), w=w, b=b, v=v)
        found = channel_groups(graph)
        data = Dataset.from_arrays({"x": X}, inputs=TensorSpec.inputs_of(to_proto(graph)))
        layers = readings(graph, found)
        sums = sums_of(graph, [layer for layer, _ in layers.values()], data, Context())
        pruned = clone(graph)
        channels = found.labels["a"][1][[0]]
        remove(pruned, found, channels)
        refit_readers(pruned, found, channels, layers, sums)
        made.append(pruned.tensors()["v"].values)
    np.testing.assert_allclose(made[1], made[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made[2], made[0], rtol=1e-4, atol=1e-5)


def test_a_product_whose_shape_nobody_knows_loses_outputs(network):
    body = """(float[N,3] x) => (float[N,2] y)
    { a = Gemm(x, w, b) r = Relu(a) c = Gemm(r, v, d) t = Relu(c) y = Gemm(t, u) }"""
    graph = network(body, w=normal(4, 3).T, b=normal(4), v=normal(4, 5), d=normal(5), u=normal(5, 2))
    found = channel_groups(graph)
    channels = [*found.labels["a"][1][:1], *found.labels["c"][1][:2]]
    for node in graph.nodes:
        node.outputs[0].shape = None
    layers = readings(graph, found)
    kept = found.kept(channels)
    assert outputs_left(kept, layers["c"][0]).sum() == 3
