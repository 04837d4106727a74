"""A graph as a torch module: its outputs against onnxruntime's, what is trained, what is written back."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.errors import DataError, ModelError
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402

ZOO = [
    "cifar10_resnet20_jpegft",
    "deeplabv3_mnv2_dm05_person",
    "fashion_mnist_vgg",
    "fastestdet_coco",
    "mlperf_resnet8_cifar10",
    "mobilenetv2_imagenet",
    "ppocr_mobile_v2_cls",
    "squeezenet1_1_imagenet",
    "ultraface_rfb320",
]
LONG = {"deeplabv3_mnv2_dm05_person"}

SMALL = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,5] y)
<float[4,3,3,3] filter, float[4] filter_bias, float[4] scale, float[4] shift, float[4] mean, float[4] var,
 float[4,5] matrix, float[5] offset, float[4,1,1] slope>
{
    c = Conv<pads=[1,1,1,1]>(x, filter, filter_bias)
    n = BatchNormalization(c, scale, shift, mean, var)
    r = PRelu(n, slope)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    m = MatMul(f, matrix)
    y = Add(m, offset)
}
"""

VIT = """
<ir_version: 10, opset_import: ["": 20]>
g (float[N,3,16,16] image) => (float[N,7] y)
<float[12,3,4,4] patch, float[12] patch_bias, float[1,16,12] position, float[1,1,12] token,
 float[12] g1, float[12] b1, float[12,36] qkv, float[36] qkv_bias, float[12,12] proj, float[12] proj_bias,
 float[12] g2, float[12] b2, float[12,24] up, float[24] up_bias, float[24,12] down, float[12] down_bias,
 float[12,7] head, float[7] head_bias,
 int64[3] flat = {0, 12, 16}, int64[5] heads = {0, 0, 3, 3, 4}, int64[3] joined = {0, 0, 12},
 int64 first = {0}, int64 second = {1}, int64 third = {2}, float root = {0.5}>
{
    c = Conv<strides=[4,4]>(image, patch, patch_bias)
    r = Reshape(c, flat)
    t = Transpose<perm=[0,2,1]>(r)
    x0 = Add(t, position)
    n1 = LayerNormalization<axis=-1>(x0, g1, b1)
    a = MatMul(n1, qkv)
    ab = Add(qkv_bias, a)
    h = Reshape(ab, heads)
    ht = Transpose<perm=[2,0,3,1,4]>(h)
    q = Gather<axis=0>(ht, first)
    k = Gather<axis=0>(ht, second)
    v = Gather<axis=0>(ht, third)
    kt = Transpose<perm=[0,1,3,2]>(k)
    scores = MatMul(q, kt)
    scaled = Mul(scores, root)
    weights = Softmax<axis=-1>(scaled)
    mixed = MatMul(weights, v)
    mt = Transpose<perm=[0,2,1,3]>(mixed)
    mj = Reshape(mt, joined)
    o = MatMul(mj, proj)
    ob = Add(o, proj_bias)
    x1 = Add(x0, ob)
    n2 = LayerNormalization<axis=-1>(x1, g2, b2)
    u = MatMul(n2, up)
    ub = Add(u, up_bias)
    ug = Gelu(ub)
    d = MatMul(ug, down)
    db = Add(d, down_bias)
    x2 = Add(x1, db)
    pooled = ReduceMean<keepdims=0>(x2, second_axis)
    logits = MatMul(pooled, head)
    y = Add(logits, head_bias)
}
""".replace("float root = {0.5}", "float root = {0.5}, int64[1] second_axis = {1}")


def run(network, feeds):
    with torch.no_grad():
        found = network({name: torch.from_numpy(np.array(array)) for name, array in feeds.items()})
    return {name: value.numpy() for name, value in found.items()}


def assert_equal(graph, feeds, network=None, limit=1e-4):
    """What a network gives is what onnxruntime gives, within `limit` of the largest number."""
    want = Session(to_proto(graph), optimise=False).run(feeds)
    found = run(network or Network(graph), feeds)
    assert list(found) == [tensor.name for tensor in graph.outputs]
    for name, array in want.items():
        assert found[name].shape == array.shape
        assert np.abs(found[name] - array).max() <= limit * max(np.abs(array).max(), 1e-6), name


def train(network, feeds, steps=3, rate=0.05):
    """Some steps towards outputs of ones, in training mode."""
    network.train()
    parameters = [*network.weights.values(), *network.others.values()]
    optimiser = torch.optim.SGD(parameters, lr=rate)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
    for _ in range(steps):
        optimiser.zero_grad()
        loss = sum((value - 1).square().mean() for value in network(tensors).values())
        loss.backward()
        optimiser.step()
    network.eval()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def zoo_feeds(zoo, name, graph):
    feeds = zoo.calib(name, 2)
    fixed = any(t.name in feeds and t.shape[0] == 1 for t in graph.inputs)
    return {key: array[:1] if fixed else array for key, array in feeds.items()}


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("pipeline", ["", "exact"])
def test_the_zoo(zoo, name, pipeline):
    graph = load(zoo.model(name))
    if pipeline:
        run_pipeline(graph, Pipeline.parse(pipeline), Context())
    assert_equal(graph, zoo_feeds(zoo, name, graph))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ZOO])
def test_the_zoo_after_training(zoo, name):
    graph = load(zoo.model(name))
    feeds = zoo_feeds(zoo, name, graph)
    network = Network(graph)
    before = run(network, feeds)
    train(network, feeds, rate=1e-3, steps=2)
    written = clone(graph)
    assert network.write(written)
    after = run(network, feeds)
    assert any(not np.array_equal(before[name], after[name]) for name in after)
    assert_equal(written, feeds, network)


def test_all_kinds_of_weights_are_trained_and_written():
    graph = from_proto(read_model(SMALL))
    network = Network(graph)
    assert set(network.weights) == {"filter", "matrix"}
    assert set(network.others) == {"filter_bias", "scale", "shift", "slope", "offset"}
    feeds = {"x": noise(4, 3, 8, 8)}
    assert_equal(graph, feeds, network)
    train(network, feeds)
    before = {name: tensor.values for name, tensor in graph.tensors().items() if isinstance(tensor, gs.Constant)}
    written = clone(graph)
    changed = network.write(written)
    assert changed == ["c", "n", "r", "m", "y"]
    assert_equal(written, feeds, network)
    for name, values in before.items():
        if name != "filter_bias":  # the mean of the batch takes it out again
            assert not np.array_equal(written.tensors()[name].values, values), name
        assert np.array_equal(graph.tensors()[name].values, values), name


def test_a_vit_block():
    graph = from_proto(read_model(VIT))
    network = Network(graph)
    feeds = {"image": noise(2, 3, 16, 16)}
    assert_equal(graph, feeds, network)
    assert set(network.weights) == {"patch", "qkv", "proj", "up", "down", "head"}
    biases = {"patch_bias", "qkv_bias", "proj_bias", "up_bias", "down_bias", "head_bias"}
    assert set(network.others) == biases | {"g1", "b1", "g2", "b2"}
    train(network, feeds, rate=1e-3)
    written = clone(graph)
    network.write(written)
    assert_equal(written, feeds, network)


def test_running_statistics_follow_the_batches():
    graph = from_proto(read_model(SMALL))
    network = Network(graph)
    feeds = {"x": torch.from_numpy(noise(8, 3, 8, 8))}
    convolved = network(feeds, taps=("c",))["c"].detach()
    mean, var = network.store()["mean"], network.store()["var"]
    network.train()
    network(feeds)
    stored = network.store()
    np.testing.assert_allclose(stored["mean"], 0.9 * mean + 0.1 * convolved.mean((0, 2, 3)).numpy(), rtol=1e-5)
    np.testing.assert_allclose(stored["var"], 0.9 * var + 0.1 * convolved.var((0, 2, 3)).numpy(), rtol=1e-5)
    network.eval()
    network(feeds)
    np.testing.assert_array_equal(network.store()["mean"], stored["mean"])


def test_a_frozen_network_has_no_parameters_and_never_trains():
    graph = from_proto(read_model(SMALL))
    network = Network(graph, frozen=True)
    assert not list(network.parameters())
    assert not network.weights
    feeds = {"x": noise(4, 3, 8, 8)}
    network.train()
    assert not network.training
    assert_equal(graph, feeds, network)
    assert not network.write(graph)


def test_taps_give_hidden_tensors_and_dead_ends():
    text = SMALL.replace("y = Add(m, offset)\n", "y = Add(m, offset)\n dead = Neg(r)\n")
    graph = from_proto(read_model(text))
    network = Network(graph)
    x = torch.from_numpy(noise(2, 3, 8, 8))
    found = network({"x": x}, taps=("dead", "n", "y"))
    assert list(found) == ["y", "dead", "n"]
    wanted = torch.nn.functional.prelu(found["n"], network.others["slope"].reshape(-1))
    assert torch.equal(-found["dead"], wanted)
    assert torch.equal(found["y"], network({"x": x})["y"])
    with pytest.raises(ModelError, match="no hidden tensor `nothing`"):
        network({"x": x}, taps=("nothing",))


def test_only_the_named_outputs_are_run():
    text = SMALL.replace("(float[N,5] y)", "(float[N,5] y, float[N,4,8,8] z)").replace("}", "z = Foreign<>(r)\n}")
    text = text.replace("z = Foreign<>(r)", "z = SomeOperator(r)")
    model = read_model(text)
    with pytest.raises(ModelError, match=r"`z` \(SomeOperator\) cannot be trained through: .*without the outputs that"):
        Network(from_proto(model))
    found = Network(from_proto(model), outputs=["y"])({"x": torch.zeros(1, 3, 8, 8)})
    assert list(found) == ["y"]
    with pytest.raises(ModelError, match="no output `w`; it has `y`, `z`"):
        Network(from_proto(model), outputs=["w"])


def test_a_shared_weight_is_one_parameter_and_stays_shared():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x) => (float[N,4] y) <float[4,4] w>
    { a = MatMul(x, w)  b = Tanh(a)  y = MatMul(b, w) }
    """
    graph = from_proto(read_model(text))
    network = Network(graph)
    assert list(network.weights) == ["w"]
    assert len(list(network.parameters())) == 1
    feeds = {"x": noise(3, 4)}
    train(network, feeds)
    written = clone(graph)
    assert network.write(written) == ["a", "y"]
    assert written.nodes[0].inputs[1] is written.nodes[2].inputs[1]
    assert len(to_proto(written).graph.initializer) == 1
    assert_equal(written, feeds, network)


def test_a_weight_that_reaches_its_layer_in_another_form():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x) => (float[N,6] y) <float16[6,4] w, float[1,6] b, int64[1] six = {6}>
    {
        f = Cast<to=1>(w)
        t = Transpose<perm=[1,0]>(f)
        i = Identity(t)
        m = MatMul(x, i)
        r = Reshape(b, six)
        y = Add(m, r)
    }
    """
    graph = from_proto(read_model(text))
    network = Network(graph)
    assert set(network.weights) == {"w"}
    assert set(network.others) == {"b"}
    feeds = {"x": noise(3, 4)}
    train(network, feeds)
    written = clone(graph)
    assert set(network.write(written)) == {"m", "y"}
    assert written.tensors()["w"].values.dtype == np.float16
    assert not np.array_equal(written.tensors()["w"].values, graph.tensors()["w"].values)
    assert_equal(written, feeds, network)


def test_a_network_in_half_precision_trains_in_single():
    text = SMALL.replace("float[", "float16[")
    graph = from_proto(read_model(text))
    network = Network(graph)
    assert network.weights["filter"].dtype == torch.float32
    x = torch.from_numpy(noise(4, 3, 8, 8)).half()
    start = network.weights["matrix"].detach().clone()
    loss = network({"x": x})["y"].float().square().mean()
    loss.backward()
    with torch.no_grad():
        for _ in range(64):  # steps that 16 bits would round away
            network.weights["matrix"].add_(1e-5)
    moved = network.weights["matrix"].detach() - start
    np.testing.assert_allclose(moved.numpy(), 64e-5, rtol=0.01)
    written = clone(graph)
    network.write(written)
    constants = [tensor for tensor in written.tensors().values() if isinstance(tensor, gs.Constant)]
    assert {tensor.values.dtype.name for tensor in constants} == {"float16"}
    assert_equal(written, {"x": x.numpy()}, network, limit=5e-3)


def weights_as(kind):
    """SMALL with its weights as defaults of graph inputs or in Constant nodes."""
    model = read_model(SMALL)
    weights = list(model.graph.initializer)
    if kind == "inputs":
        model.graph.input.extend(helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights)
    else:
        del model.graph.initializer[:]
        nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in weights] + list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("kind", ["inputs", "nodes"])
def test_weights_that_are_no_plain_initialisers(kind):
    graph = from_proto(weights_as(kind))
    network = Network(graph)
    assert set(network.weights) == {"filter", "matrix"}
    assert len(network.others) == 5
    feeds = {"x": noise(4, 3, 8, 8)}
    assert_equal(graph, feeds, network)
    train(network, feeds)
    written = clone(graph)
    assert network.write(written) == ["c", "n", "r", "m", "y"]
    assert_equal(written, feeds, network)
    assert len(written.inputs) == len(graph.inputs)
    assert [node.op for node in written.nodes] == [node.op for node in graph.nodes]


def test_a_default_may_be_overridden():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x, float[1] gain) => (float[N,4] y) { y = Mul(x, gain) }
    """
    model = read_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([3], np.float32), "gain"))
    network = Network(from_proto(model))
    x = torch.ones(1, 4)
    assert torch.equal(network({"x": x})["y"], 3 * x)
    assert torch.equal(network({"x": x, "gain": torch.tensor([5.0])})["y"], 5 * x)


def test_an_input_without_a_value_is_named():
    network = Network(from_proto(read_model(SMALL)))
    with pytest.raises(DataError, match="no values for input `x`"):
        network({"y": torch.zeros(1)})


def test_a_wrong_shape_names_the_node():
    network = Network(from_proto(read_model(SMALL)))
    with pytest.raises(ModelError, match=r"node `c` \(Conv\) cannot run: .*channels"):
        network({"x": torch.zeros(1, 2, 8, 8)})


def test_names_that_torch_would_refuse():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x) => (float[N,4] forward) <float[4,4] "layer.weight", float[4,4] "layer/weight", float[4] training>
    { a = MatMul(x, "layer.weight")  b = MatMul(a, "layer/weight")  forward = Add(b, training) }
    """.replace('"layer', "layer").replace('weight"', "weight")
    text = text.replace("layer.weight", "layer_dot").replace("layer/weight", "layer_slash")
    model = read_model(text)
    renamed = {"layer_dot": "layer.weight", "layer_slash": "layer/weight"}
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del model.graph.value_info[:]
    graph = from_proto(model)
    network = Network(graph)
    assert set(network.weights) == {"layer.weight", "layer/weight"}
    assert set(network.others) == {"training"}
    feeds = {"x": noise(2, 4)}
    train(network, feeds, rate=1e-3)
    network.write(graph)
    assert_equal(graph, feeds, network)


def test_the_state_carries_over():
    graph = from_proto(read_model(SMALL))
    first, second = Network(graph), Network(graph)
    feeds = {"x": noise(4, 3, 8, 8)}
    train(first, feeds)
    second.load_state_dict(first.state_dict())
    for name, array in run(first, feeds).items():
        np.testing.assert_array_equal(run(second, feeds)[name], array)
    for name, array in first.store().items():
        np.testing.assert_array_equal(second.store()[name], array)


def test_a_copy_is_independent():
    graph = from_proto(read_model(SMALL))
    network = Network(graph)
    feeds = {"x": noise(4, 3, 8, 8)}
    train(network, feeds)
    before = run(network, feeds)
    copied = deepcopy(network)
    np.testing.assert_array_equal(run(copied, feeds)["y"], before["y"])
    train(copied, feeds)
    assert not network.training
    np.testing.assert_array_equal(run(network, feeds)["y"], before["y"])
    assert not np.array_equal(run(copied, feeds)["y"], before["y"])


def test_write_refuses_another_graph():
    network = Network(from_proto(read_model(SMALL)))
    other = from_proto(read_model(SMALL.replace("offset", "elsewhere")))
    with pytest.raises(ModelError, match="no constant `offset`"):
        network.write(other)
    other = from_proto(
        read_model(SMALL.replace("float[4,5] matrix, float[5] offset", "float[4,1] matrix, float[1] offset"))
    )
    with pytest.raises(ModelError, match=r"`matrix` has shape \[4, 1\], its trained values \[4, 5\]"):
        network.write(other)


def test_training_changes_nothing_until_it_is_written():
    model = read_model(SMALL)
    graph = from_proto(model)
    before = to_proto(graph).SerializeToString()
    train(Network(graph), {"x": noise(2, 3, 8, 8)})
    assert to_proto(graph).SerializeToString() == before


def test_dynamic_sizes():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4,H,W] x) => (float[N,M] y) <float[4,4,3,3] w, int64[1] one = {1}, int64[1] minus = {-1}>
    {
        c = Conv(x, w)
        s = Shape(c)
        n = Gather<axis=0>(s, zero)
        shape = Concat<axis=0>(n, minus)
        y = Reshape(c, shape)
    }
    """.replace("int64[1] one = {1}", "int64[1] zero = {0}")
    graph = from_proto(read_model(text))
    network = Network(graph)
    for shape in [(1, 4, 5, 6), (3, 4, 9, 4)]:
        assert_equal(graph, {"x": noise(*shape)}, network)


def test_random_batch_norm_statistics_are_refused():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4,5,5] x, float[4] shift) => (float[N,4,5,5] y) <float[4] a, float[4] b, float[4] mean, float[4] var>
    { m = Add(mean, shift)  y = BatchNormalization(x, a, b, m, var) }
    """
    graph = from_proto(read_model(text))
    with pytest.raises(ModelError, match=r"`y` .* running statistic that is no constant"):
        Network(graph)
    feeds = {"x": noise(2, 4, 5, 5), "shift": noise(4)}
    assert_equal(graph, feeds, Network(graph, frozen=True))


def test_a_local_function_is_inlined():
    model = read_model(SMALL)
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="mine"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 5]))
    onnx.checker.check_model(model)
    assert_equal(from_proto(model), {"x": noise(2, 3, 8, 8)})
