"""Quantised networks of the zoo: what is found in them, and that training leaves them what integer kernels want."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc import edit
from lpcc.analysis.quantized import params_of, quantized_layers
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec, optimised
from lpcc.runtime.fused import count_kernels
from lpcc.runtime.session import with_outputs
from lpcc.target import Target
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.latents import find, latents_of  # noqa: E402
from lpcc.train.latents.integer_weights import Bias, IntegerWeight  # noqa: E402
from lpcc.train.latents.scale import Scale  # noqa: E402
from lpcc.train.network import Network  # noqa: E402

RESNET8, RESNET20 = "mlperf_resnet8_cifar10", "cifar10_resnet20_jpegft"
CASES = [
    pytest.param(RESNET20, "x86-avx512-vnni", "quantize{ranges=minmax}", id="ResNet-20 int8"),
    pytest.param(RESNET20, "x86-avx512-vnni", "quantize{ranges=minmax weight-bits=4}", id="ResNet-20 int4"),
    pytest.param(RESNET8, "x86-avx2", "quantize{ranges=minmax}", id="ResNet-8 with 7-bit weights"),
    pytest.param(RESNET8, "arm-cortex-a76", "quantize{ranges=minmax weight-bits=2}", id="ResNet-8 int2"),
    pytest.param(RESNET20, "arm-cortex-a76", 'quantize{ranges=minmax bits="*=4+8:25%"}', id="ResNet-20 of both widths"),
    pytest.param(RESNET8, "stm32h747", 'quantize{ranges=minmax bits="*=16"}', id="ResNet-8 with int16 activations"),
]


def quantized(zoo, name, target, text):
    graph = load(zoo.model(name))
    data = Dataset.from_arrays(zoo.calib(name, 16), inputs=TensorSpec.inputs_of(to_proto(graph)))
    ctx = Context(target=Target.load(target), calibration=data)
    run_pipeline(graph, Pipeline.parse(f"exact,{text}"), ctx)
    annotate(graph)
    return graph, ctx.unquantized


def check(graph, network, feeds):
    """Assert that a network computes the integers that onnxruntime computes for its graph.

    Sums in another order differ in their last bits, and a number halfway between two integers may then go to either. Of
    the first integers one in a thousand is off by one, not more. What reads it differs by a step, and so on: of all
    integers of 8 bits a few in a hundred are off. Those of 16 bits are so fine that more are, by less.
    """
    names = [n.outputs[0].name for n in graph.nodes if edit.op(n) == "QuantizeLinear"]
    want = Session(with_outputs(to_proto(graph), names), optimise=False).run(feeds)
    with torch.no_grad():
        found = network({key: torch.from_numpy(array) for key, array in feeds.items()}, taps=names)
    apart = [np.abs(found[name].numpy() - want[name].astype(np.float32)) for name in names]
    is_fine = any(want[name].dtype == np.int16 for name in names)
    assert apart[0].max() <= 1
    assert (apart[0] > 0).mean() < 1e-3
    assert np.concatenate([(a > 0).reshape(-1) for a in apart]).mean() < (0.2 if is_fine else 0.05)
    outputs = [(found[tensor.name].numpy(), want[tensor.name]) for tensor in graph.outputs]
    assert max(np.abs(a - b).max() / np.abs(b).max() for a, b in outputs) < (0.005 if is_fine else 0.05)


def train(network, feeds, rate=1e-3, steps=2):
    tensors = {key: torch.from_numpy(array) for key, array in feeds.items()}
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        sum(value.square().mean() for value in network(tensors).values()).backward()
        optimiser.step()
    assert all(p.grad is not None for p in network.parameters()), "every parameter is reached"
    network.eval()


@pytest.mark.parametrize(("name", "target", "text"), CASES)
def test_quantised_networks_are_trained(zoo, name, target, text):
    graph, before = quantized(zoo, name, target, text)
    network = Network(graph, float_graph=before)
    feeds = zoo.calib(name, 8)
    check(graph, network, feeds)
    for key, array in network.store().items():
        stored = next(t for n in graph.nodes for t in n.inputs if t.name == key).values
        assert np.array_equal(np.asarray(stored), array.astype(stored.dtype)), "nothing has changed yet"

    zero_points = {n.name: edit.const(n.inputs[2]) for n in graph.nodes if len(n.inputs) > 2 and "Linear" in n.op}
    train(network, feeds)
    written = clone(graph)
    changed = network.write(written)
    assert {layer.node.name for layer in quantized_layers(graph)} <= set(changed)
    annotate(written)
    check(written, network, feeds)

    assert [(n.op, n.name, n.attrs) for n in written.nodes] == [(n.op, n.name, n.attrs) for n in graph.nodes]
    for node in written.nodes:
        if node.name in zero_points:
            assert np.array_equal(edit.const(node.inputs[2]), zero_points[node.name])
    kernels, old = count_kernels(optimised(to_proto(written))), count_kernels(optimised(to_proto(graph)))
    assert kernels.by_op == old.by_op
    for layer, was in zip(quantized_layers(written), quantized_layers(graph), strict=True):
        assert layer.bits == was.bits
        assert np.array_equal(layer.wide, was.wide)
        product = layer.input_params.scale * layer.weights.scales
        if layer.bias is not None:
            assert np.array_equal(np.asarray(layer.bias.inputs[1].values), product)
        assert (layer.weights.scales > 0).all()
        largest = max(64, int(np.abs(was.weights.integers.astype(int)).max()))
        assert np.abs(layer.weights.integers.astype(int)).max() <= largest


def test_every_scale_weight_and_bias_is_found(zoo):
    graph, before = quantized(zoo, RESNET20, "x86-avx512-vnni", "quantize{ranges=minmax weight-bits=4}")
    found = find(graph, before)
    layers = quantized_layers(graph)
    assert found.frozen == {}
    assert sum(isinstance(latent, IntegerWeight) for latent in found.latents.values()) == len(layers)
    assert sum(isinstance(latent, Bias) for latent in found.latents.values()) == len(layers)
    read = {n.inputs[1].name for n in graph.nodes if n.op == "QuantizeLinear"}
    assert {name for name, latent in found.latents.items() if isinstance(latent, Scale)} == read
    floats = {node.name: node.inputs[1] for node in before.nodes if node.op in ("Conv", "Gemm")}
    for layer in layers:
        latent = found.latents[layer.weight.outputs[0].name]
        start, exact = latent.weight.detach().numpy(), np.asarray(floats[layer.node.name].values)
        assert np.isclose(start, exact, rtol=1e-3, atol=1e-6).mean() > 0.98, "but for those on an edge of their cell"
        rounded = latents_of(graph)[layer.weight.outputs[0].name].weight.detach().numpy()
        assert not np.isclose(rounded, exact, rtol=1e-3, atol=1e-6).mean() > 0.5


def test_operators_that_move_numbers_keep_one_scale_and_their_kernels(zoo):
    name = "fashion_mnist_vgg"
    graph, before = quantized(zoo, name, "x86-avx512-vnni", "quantize{ranges=minmax min-work=0}")
    feeds = zoo.calib(name, 4)
    network = Network(graph, float_graph=before)
    train(network, feeds)
    written = clone(graph)
    network.write(written)
    pools = 0
    for node in written.nodes:
        if edit.op(node) == "MaxPool" and params_of(node.inputs[0]) is not None:
            (reader,) = node.outputs[0].outputs
            if edit.op(reader) == "QuantizeLinear":
                pools += 1
                assert params_of(node.inputs[0]).scale == np.float32(reader.inputs[1].values)
    assert pools
    assert count_kernels(optimised(to_proto(written))).by_op == count_kernels(optimised(to_proto(graph))).by_op


@pytest.mark.parametrize(
    ("name", "target", "kept"),
    [
        pytest.param("mobilenetv2_imagenet", "x86-avx512-vnni", set(), marks=pytest.mark.slow),  # Clip to 6
        ("squeezenet1_1_imagenet", "x86-avx512-vnni", set()),  # Concat
        ("ppocr_mobile_v2_cls", "x86-avx512-vnni", {"its integers are read with another scale elsewhere"}),  # HardSwish
        pytest.param("fastestdet_coco", "arm-cortex-a76", set(), marks=pytest.mark.slow),  # channel shuffles
        pytest.param("ultraface_rfb320", "x86-avx512-vnni", set(), marks=pytest.mark.slow),
        pytest.param("deeplabv3_mnv2_dm05_person", "x86-avx512-vnni", set(), marks=pytest.mark.slow),  # Resize
    ],
)
def test_all_integer_kernels_of_larger_networks_stay(zoo, name, target, kept):
    graph, before = quantized(zoo, name, target, "quantize{ranges=minmax min-work=0}")
    assert set(find(graph, before).frozen.values()) == kept
    network = Network(graph, float_graph=before)
    is_single = TensorSpec.inputs_of(to_proto(graph))[0].shape[0] == 1
    feeds = zoo.calib(name, 1 if is_single else 2)
    train(network, feeds, rate=1e-4)
    written = clone(graph)
    network.write(written)
    assert count_kernels(optimised(to_proto(written))).by_op == count_kernels(optimised(to_proto(graph))).by_op
    first = next(node.outputs[0].name for node in written.nodes if edit.op(node) == "QuantizeLinear")
    want = Session(with_outputs(to_proto(written), [first]), optimise=False).run(feeds)[first]
    with torch.no_grad():
        found = network({key: torch.from_numpy(array) for key, array in feeds.items()}, taps=[first])[first]
    apart = np.abs(found.numpy() - want.astype(np.float32))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3


SMALL = """<ir_version: 10, opset_import: ["": 17]>
g (float[N,8,8,8] x) => (float[N,8,8,8] y)
<float[16,8,3,3] first, float[16] a, float[16,16,3,3] second, float[16] b, float[8,16,1,1] last>
{
    c = Conv<pads=[1,1,1,1]>(x, first, a)
    r = Relu(c)
    d = Conv<pads=[1,1,1,1]>(r, second, b)
    s = Relu(d)
    y = Conv(s, last)
}
"""


@pytest.mark.parametrize(("optimiser", "share"), [("adam", 0.75), ("sgd", 0.9)])
def test_it_learns(optimiser, share):
    """Towards what the float network gives, two-bit weights come closer to it, also on other samples."""
    x = np.random.default_rng(0).standard_normal((96, 8, 8, 8)).astype(np.float32)
    graph = from_proto(read_model(SMALL))
    data = Dataset.from_arrays({"x": x[:16]}, inputs=TensorSpec.inputs_of(to_proto(graph)))
    ctx = Context(target=Target.load("arm-cortex-a76"), calibration=data)
    run_pipeline(graph, Pipeline.parse("quantize{ranges=minmax weight-bits=2 min-work=0}"), ctx)
    assert len(quantized_layers(graph)) == 3
    teacher, student = Network(ctx.unquantized, frozen=True), Network(graph, float_graph=ctx.unquantized)
    samples = torch.from_numpy(x)
    with torch.no_grad():
        wanted = teacher({"x": samples})["y"]
    power = wanted.square().mean()

    def noise(rows):
        return (student({"x": samples[rows]})["y"] - wanted[rows]).square().mean() / power

    with torch.no_grad():
        first = float(noise(slice(64, 96)))
    steps = {"adam": torch.optim.Adam, "sgd": lambda p, lr: torch.optim.SGD(p, lr=10 * lr, momentum=0.9)}
    training = steps[optimiser](student.parameters(), lr=2e-3)
    student.train()
    for step in range(60):
        training.zero_grad()
        noise(slice(16 * (step % 4), 16 * (step % 4 + 1))).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        training.step()
    student.eval()
    with torch.no_grad():
        last = float(noise(slice(64, 96)))
    assert last < share * first, f"noise {first:.3f} before, {last:.3f} after"


SHARED = """<ir_version: 10, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y)
<float s = {0.5}, float t = {0.25}, uint8 z = {3}, int8[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float ws = {0.1},
 float wt = {%s}, int8 wz = {0}, int32[4] b = {1,2,3,4}, float bs = {0.05}, float bt = {0.025}>
{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    v = DequantizeLinear(w, ws, wz)
    c = DequantizeLinear(b, bs)
    m = Gemm(d, v, c)
    r = QuantizeLinear(m, t, z)
    e = DequantizeLinear(r, t, z)
    u = DequantizeLinear(w, %s, wz)
    y = MatMul(e, u)
}"""


def test_layers_that_share_weights_go_on_sharing_them():
    graph = from_proto(read_model(SHARED % (0.1, "ws")))
    annotate(graph)
    latents = latents_of(graph)
    assert latents["v"] is latents["u"]
    network = Network(graph)
    assert set(network.weights) == {"v"}
    assert set(network.others) == {"s", "t", "ws", "c"}


def test_integers_with_two_scales_stay():
    graph = from_proto(read_model(SHARED % (0.2, "wt")))
    annotate(graph)
    found = find(graph)
    assert found.frozen == dict.fromkeys(("v", "u"), "the same integers are read with several scales")
    assert isinstance(found.latents["c"], Bias)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    with torch.no_grad():
        np.testing.assert_allclose(Network(graph)({"x": torch.from_numpy(x)})["y"].numpy(), want, rtol=1e-5)


BRANCHES = """<ir_version: 10, opset_import: ["": 17]>
g (float[N,4] x, bool c) => (float[N,4] y)
{
    y = If(c) <
        then_branch = t () => (float[N,4] a)
            <float s = {0.5}, uint8 z = {3}, float u = {0.5}, uint8 v = {3}>
            { q = QuantizeLinear(x, s, z)  a = DequantizeLinear(q, u, v) },
        else_branch = e () => (float[N,4] b)
            <float %s = {0.25}, uint8 w = {3}>
            { r = QuantizeLinear(x, %s, w)  b = DequantizeLinear(r, %s, w) }
    >
}"""


def test_branches_have_scales_of_their_own():
    graph = from_proto(read_model(BRANCHES % (("other",) * 3)))
    annotate(graph)
    found = find(graph)
    assert set(found.latents) == {"s", "u", "other"}
    assert found.latents["s"] is found.latents["u"]


def test_names_that_branches_use_twice_stay():
    graph = from_proto(read_model(BRANCHES % (("s",) * 3)))
    annotate(graph)
    found = find(graph)
    assert found.latents == {}
    assert found.frozen["s"] == found.frozen["u"] == "another tensor has its name, in another branch"
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    for condition in (True, False):
        feeds = {"x": x, "c": np.asarray(condition)}
        want = Session(to_proto(graph), optimise=False).run(feeds)["y"]
        with torch.no_grad():
            found_now = Network(graph)({key: torch.from_numpy(value) for key, value in feeds.items()})["y"]
        np.testing.assert_array_equal(found_now.numpy(), want)


def test_a_float_graph_of_other_weights_is_no_start():
    text = SHARED % (0.1, "ws")
    graph = from_proto(read_model(text))
    annotate(graph)
    other = from_proto(
        read_model(
            """<ir_version: 10, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] m)
            <float[4,4] w = {-1,-2,-3,-4,-5,-6,-7,-8,-9,-1,-2,-3,-4,-5,-6,-7}> { m = Gemm(x, w) }"""
        )
    )
    first = latents_of(graph, other)["v"].weight.detach().numpy()
    assert np.array_equal(first, latents_of(graph)["v"].weight.detach().numpy())
