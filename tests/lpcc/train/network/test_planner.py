"""What a plan keeps of a graph: constants folded, the dead dropped, values freed, sides of host and device."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from lpcc.errors import ModelError
from lpcc.graph import from_proto, load
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network, planner  # noqa: E402
from lpcc.train.network.plan import Plan, Step, with_dead  # noqa: E402

SHAPES = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,4,6,6] x) => (float[A,B] y) <float[2,4,3,3] w, int64 zero = {0}, int64[1] minus = {-1}, int64[1] two = {2},
 float[4] factors = {0.5, 1, 1, 2}>
{
    twice = Mul(two, two)
    half = Div(twice, two)
    c = Conv(x, w)
    s = Shape(c)
    n = Gather<axis=0>(s, zero)
    nn = Unsqueeze(n, zeros)
    shape = Concat<axis=0>(nn, minus)
    r = Reshape(c, shape)
    i = Identity(r)
    e = ConstantOfShape(shape_of_r)
    shape_of_r = Shape(i)
    y = Add(i, e)
    dead = Exp(i)
}
""".replace("int64[1] two = {2}", "int64[1] two = {2}, int64[1] zeros = {0}").replace(
    "    e = ConstantOfShape(shape_of_r)\n    shape_of_r = Shape(i)\n",
    "    shape_of_r = Shape(i)\n    e = ConstantOfShape(shape_of_r)\n",
)


@pytest.fixture
def lowered(monkeypatch):
    """Names of the nodes that got kernels, each with the number of times that it ran."""
    counts: dict[str, int] = {}

    def lower(call):
        kernel = original(call)
        counts[call.name] = 0

        def counting(*inputs):
            counts[call.name] += 1
            return kernel(*inputs)

        return counting

    original = planner.lower
    monkeypatch.setattr(planner, "lower", lower)
    return counts


def test_the_dead_are_dropped_and_identities_cost_nothing(lowered):
    network = Network(from_proto(read_model(SHAPES)))
    x = torch.randn(2, 4, 6, 6)
    network({"x": x})
    assert set(lowered) == {"c", "s", "n", "nn", "shape", "r", "shape_of_r", "e", "y"}
    assert set(lowered.values()) == {1}
    network({"x": x}, taps=("dead", "i"))
    assert lowered["dead"] == 1
    assert lowered["c"] == 2


def test_constants_are_folded_once(lowered):
    text = SHAPES.replace("(float[A,B] y)", "(float[A,B] y, int64[1] half)")
    network = Network(from_proto(read_model(text)))
    for _ in range(3):
        found = network({"x": torch.randn(1, 4, 6, 6)}, taps=("twice",))
    assert found["half"].tolist() == [2]
    assert found["twice"].tolist() == [4]
    assert lowered["twice"] == lowered["half"] == 1
    assert lowered["c"] == 3


def test_weights_are_folded_where_they_are_not_trained(lowered):
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x) => (float[N,6] y) <float[6,4] w> { t = Transpose(w)  y = MatMul(x, t) }
    """
    graph = from_proto(read_model(text))
    network, teacher = Network(graph, frozen=True), Network(graph)
    lowered.update(t=0, y=0)
    network({"x": torch.randn(1, 4)})
    assert lowered["t"] == 0
    teacher({"x": torch.randn(1, 4)})
    assert lowered["t"] == 1


def test_random_nodes_are_not_folded():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[3] x) => (float[3] y) { r = RandomNormal<shape=[3]>() y = Add(x, r) }
    """
    network = Network(from_proto(read_model(text)))
    x = torch.zeros(3)
    assert not torch.equal(network({"x": x})["y"], network({"x": x})["y"])


def test_hidden_tensors_are_freed_after_their_last_reader(monkeypatch):
    made: list[weakref.ref] = []
    alive: list[int] = []

    def lower(call):
        kernel = original(call)

        def watching(*inputs):
            alive.append(sum(ref() is not None for ref in made))
            result = kernel(*inputs)
            made.append(weakref.ref(result))
            return result

        return watching

    original = planner.lower
    monkeypatch.setattr(planner, "lower", lower)
    body = "t0 = Exp(x) " + " ".join(f"t{i} = Sin(t{i - 1})" for i in range(1, 30)) + " y = Add(t29, x)"
    text = f'<ir_version: 10, opset_import: ["": 17]> g (float[8] x) => (float[8] y) {{ {body} }}'
    network = Network(from_proto(read_model(text)))
    with torch.no_grad():
        network({"x": torch.randn(8)})
    assert len(alive) == 31
    assert max(alive) <= 2


def test_slots_that_nobody_reads_again():
    steps = [
        Step(lambda a: (a + 1, a + 2), (1,), (2, 3), ()),
        Step(lambda a: a * 2, (2,), 4, ()),
        Step(lambda a, b: a + b, (1, 4), 5, ()),
    ]
    found = with_dead(steps, [5])
    assert [set(step.dead) for step in found] == [{3}, {2}, {1, 4}]
    plan = Plan(6, (1,), found, (5,), ("a", "b", "c"))
    assert plan.run([10]) == [32]


@pytest.mark.parametrize(
    "name", ["cifar10_resnet20_jpegft", "ppocr_mobile_v2_cls", "ultraface_rfb320", "mobilenetv2_imagenet"]
)
def test_what_shapes_are_computed_from_stays_on_the_host(zoo, name):
    """On torch's device without data every number that is read, and every operator on two devices, is an error."""
    graph = load(zoo.model(name))
    feeds = {key: torch.from_numpy(array[:1]).to("meta") for key, array in zoo.calib(name, 1).items()}
    network = Network(graph).to("meta")
    network.train()
    outputs = network(feeds)
    assert {value.device.type for value in outputs.values()} == {"meta"}
    sum(value.sum() for value in outputs.values()).backward()
    assert all(parameter.grad.device.type == "meta" for parameter in network.weights.values())


def test_host_and_device_meet():
    network = Network(from_proto(read_model(SHAPES))).to("meta")
    assert network({"x": torch.randn(2, 4, 6, 6, device="meta")})["y"].device.type == "meta"


def test_nodes_out_of_order_are_told():
    graph = from_proto(read_model(SHAPES))
    graph.nodes[:] = graph.nodes[::-1]
    with pytest.raises(ModelError, match=r"gives tensor `.*` a value"):
        Network(graph)


def test_a_node_that_cannot_be_computed_is_named_when_it_is_folded():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x) => (float[A] y) <float[4] a, float[3] b> { bad = Add(a, b) y = Add(x, bad) }
    """
    with pytest.raises(ModelError, match=r"node `bad` \(Add\) cannot run: .*size"):
        Network(from_proto(read_model(text)))


def test_results_that_nobody_asks_for():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,4] x) => (float[N,4] y) { q = DynamicQuantizeLinear(x) d = Cast<to=1>(q) y = Neg(d) }
    """
    text = text.replace("q = Dyn", "q, s, z = Dyn")
    model = read_model(text)
    del model.graph.node[0].output[1:]
    found = Network(from_proto(model))({"x": torch.from_numpy(np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4))})
    assert found["y"].shape == (2, 4)
