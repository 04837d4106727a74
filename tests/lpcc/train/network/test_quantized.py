"""Quantised networks in torch: the integers that onnxruntime computes, before and after training.

Sums in another order differ in their last bits, and a number half-way between two integers then goes to the other one.
So single integers may be off by one; how many is what is asserted, where the numbers are not yet mixed with others.
"""

from __future__ import annotations

import numpy as np
import pytest

from lpcc import edit
from lpcc.data import Dataset
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec
from lpcc.runtime.session import with_outputs
from lpcc.target import Target
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402

EXACT = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,3] y)
<float sx = {0.25}, uint8 zx = {100}, int8[4,3] w = {1,-2,3,-4,5,-6,7,-8,9,-10,11,-12}, float[3] sw = {0.5,0.25,2},
 int8[3] zw = {0,0,0}, float sy = {8}, int8 zy = {-3}>
{
    q = QuantizeLinear(x, sx, zx)
    d = DequantizeLinear(q, sx, zx)
    v = DequantizeLinear<axis=1>(w, sw, zw)
    m = MatMul(d, v)
    r = QuantizeLinear(m, sy, zy)
    y = DequantizeLinear(r, sy, zy)
}
"""


def quantized(zoo, name):
    graph = load(zoo.model(name))
    specs = TensorSpec.inputs_of(to_proto(graph))
    data = Dataset.from_arrays(zoo.calib(name, 8), inputs=specs)
    run_pipeline(graph, Pipeline.parse("exact,quantize"), Context(target=Target.load("arm-cortex-a"), calibration=data))
    return graph


def compare(graph, network, feeds):
    """Share of the first integers that are off by one, and the mean relative difference of the outputs."""
    names = [node.outputs[0].name for node in graph.nodes if edit.op(node) == "QuantizeLinear"][:3]
    proto = to_proto(graph)
    want = Session(with_outputs(proto, names), optimise=False).run(feeds)
    with torch.no_grad():
        found = network({name: torch.from_numpy(array) for name, array in feeds.items()}, taps=names)
    off = []
    for name in names:
        apart = np.abs(found[name].numpy() - want[name].astype(np.float32))
        assert apart.max() <= 1
        off.append(apart.mean())
    outputs = [tensor.name for tensor in graph.outputs]
    return max(off), max(np.abs(found[n].numpy() - want[n]).mean() / np.abs(want[n]).mean() for n in outputs)


@pytest.mark.parametrize(
    "name",
    ["fashion_mnist_vgg", "mlperf_resnet8_cifar10", pytest.param("cifar10_resnet20_jpegft", marks=pytest.mark.slow)],
)
def test_quantized_networks_of_the_zoo(zoo, name):
    graph = quantized(zoo, name)
    feeds = zoo.calib(name, 8)
    for network in (Network(graph, frozen=True), Network(graph)):
        off, apart = compare(graph, network, feeds)
        assert off < 1e-3
        assert apart < 0.01
    network.train()
    optimiser = torch.optim.SGD([*network.weights.values(), *network.others.values()], lr=1e-3)
    tensors = {key: torch.from_numpy(array) for key, array in feeds.items()}
    for _ in range(2):
        optimiser.zero_grad()
        sum(value.square().mean() for value in network(tensors).values()).backward()
        optimiser.step()
    network.eval()
    written = clone(graph)
    changed = network.write(written)
    layers = {edit.label(node) for node in graph.nodes if edit.op(node) in ("Conv", "Gemm")}
    assert len(layers & set(changed)) > len(layers) / 2
    off, apart = compare(written, network, feeds)
    assert off < 1e-3
    assert apart < 0.02


def test_sums_that_are_exact_in_any_order_are_equal():
    graph = from_proto(read_model(EXACT))
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32) * 20
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    for network in (Network(graph, frozen=True), Network(graph)):
        with torch.no_grad():
            np.testing.assert_array_equal(network({"x": torch.from_numpy(x)})["y"].numpy(), want)


def test_integers_as_outputs_and_inputs():
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    g (uint8[N,4] x) => (int8[N,4] y) <float s = {0.5}, uint8 z = {7}, int8 i = {-3}>
    {
        d = DequantizeLinear(x, s, z)
        r = Relu(d)
        y = QuantizeLinear(r, s, i)
    }
    """
    graph = from_proto(read_model(text))
    x = np.arange(40, dtype=np.uint8).reshape(10, 4) * 6
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    with torch.no_grad():
        found = Network(graph)({"x": torch.from_numpy(x)})["y"]
    np.testing.assert_array_equal(found.numpy(), want)
