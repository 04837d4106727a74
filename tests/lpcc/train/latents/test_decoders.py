"""Every format of `quantize-weights`: recognised in the graph, trained, and stored as it was computed."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc import edit
from lpcc.analysis.decoding import decoded, makers
from lpcc.analysis.types import annotate
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.passes import QuantizeWeights
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.latents import find  # noqa: E402
from lpcc.train.latents.integer_weights import IntegerWeight  # noqa: E402
from lpcc.train.latents.low_bit import DorefaWeight, FittedWeight, PowerWeight, TwoScaleWeight  # noqa: E402
from lpcc.train.network import Network  # noqa: E402

NET = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,12,12] x) => (float[N,10] y)
<float[16,3,3,3] first, float[16] b1, float[16,1,3,3] depthwise, float[21,16,1,1] pointwise, float[21,9,2,2] up,
 float[9,3,3,3] grouped, float[9] b4, float[9,8] product, float[10,8] last, float[10] b6, int64[2] sizes = {0, -1}>
{
    a = Conv<pads = [1,1,1,1]>(x, first, b1)
    r = Relu(a)
    b = Conv<pads = [1,1,1,1], group = 16>(r, depthwise)
    c = Conv(b, pointwise)
    d = ConvTranspose<strides = [2,2]>(c, up)
    e = Conv<group = 3, strides = [2,2], auto_pad = "SAME_UPPER">(d, grouped, b4)
    f = GlobalAveragePool(e)
    h = Reshape(f, sizes)
    i = MatMul(h, product)
    y = Gemm<transB = 1, alpha = 0.5>(i, last, b6)
}
"""

FORMATS = [
    ({"format": "int8"}, IntegerWeight),
    ({"format": "int4", "symmetric": False}, IntegerWeight),
    ({"format": "int2", "ends": True}, FittedWeight),
    ({"format": "int2", "ends": True, "symmetric": False}, IntegerWeight),
    ({"format": "fixed", "bits": 16}, IntegerWeight),
    ({"format": "fixed", "bits": 6, "fraction": 4}, IntegerWeight),
    ({"format": "fixed", "bits": 4, "per_channel": True}, IntegerWeight),
    ({"format": "pow2"}, PowerWeight),
    ({"format": "pow2", "k": 2, "scale": "power"}, PowerWeight),
    ({"format": "pow2", "k": 3, "bits": 3}, PowerWeight),
    ({"format": "pow2", "bits": 2, "per_channel": False}, PowerWeight),
    ({"format": "flightnn"}, PowerWeight),
    ({"format": "flightnn", "mean_k": 0.5}, PowerWeight),
    ({"format": "flightnn", "k": 3, "threshold": 0.1}, PowerWeight),
    ({"format": "ternary", "ends": True}, FittedWeight),
    ({"format": "ttq", "ends": True}, TwoScaleWeight),
    ({"format": "binary", "ends": True}, FittedWeight),
    ({"format": "binary", "ends": True, "per_channel": False}, FittedWeight),
    ({"format": "xnor", "ends": True}, FittedWeight),
    ({"format": "dorefa", "ends": True}, DorefaWeight),
    ({"format": "dorefa", "bits": 1, "ends": True}, DorefaWeight),
    ({"format": "dorefa", "bits": 5}, DorefaWeight),
]


def named(pair):
    return " ".join(f"{key}={value}" for key, value in pair.items()) if isinstance(pair, dict) else ""


def quantized(**options):
    graph = from_proto(read_model(NET))
    ctx = Context()
    run_pipeline(graph, [QuantizeWeights(**options)], ctx)
    annotate(graph)
    return graph, ctx.unquantized


def weights_of(graph):
    """What each layer decodes, by name of the tensor."""
    layers = [node for node in graph.nodes if edit.op(node) in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return {node.inputs[1].name: node.inputs[1] for node in layers if makers(node.inputs[1]) is not None}


def outputs(graph, x):
    return Session(to_proto(graph), optimise=False).run({"x": x})["y"]


def trained(network, x, steps=3):
    """The network after a few steps, in the mode of evaluation."""
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        y = network({"x": torch.from_numpy(x)})["y"]
        (y / y.detach().abs().mean() - 1).square().mean().backward()
        optimiser.step()
    return network.eval()


@pytest.mark.parametrize("with_floats", [False, True], ids=["from the graph", "from the weights before"])
@pytest.mark.parametrize(("options", "family"), FORMATS, ids=named)
def test_formats_are_trained(options, family, with_floats):
    graph, before = quantized(**options)
    expected = 3 if options["format"] == "xnor" else 7
    found = find(graph, before if with_floats else None)
    assert found.frozen == {}
    assert [type(latent) for latent in found.latents.values()] == [family] * expected
    for name, tensor in weights_of(graph).items():
        assert np.array_equal(found.latents[name]().detach().numpy(), decoded(tensor))
    x = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
    network = Network(graph, float_graph=before if with_floats else None)
    first = outputs(graph, x)
    with torch.no_grad():
        found_first = network({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(found_first, first, rtol=0, atol=1e-5 * np.abs(first).max())
    trained(network, x)
    written = clone(graph)
    changed = network.write(written)
    assert [(n.op, n.name, [t.name for t in n.inputs]) for n in written.nodes] == [
        (n.op, n.name, [t.name for t in n.inputs]) for n in graph.nodes
    ]
    layers = {edit.label(node) for node in graph.nodes if edit.op(node) in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    assert changed
    assert layers >= {name for name in changed if not name.endswith(("_biased", "_scaled"))}
    after = outputs(written, x)
    assert np.abs(after - first).max() > 1e-3 * np.abs(first).max()
    with torch.no_grad():
        found_after = network({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(found_after, after, rtol=0, atol=1e-5 * np.abs(after).max())
    again = Network(written)  # what was stored is recognised as the same
    for name in weights_of(graph):
        assert np.array_equal(again._latents[name]().detach().numpy(), network._latents[name]().detach().numpy())


ZOO = ["int4", "fixed bits=4", "pow2 k=2", "flightnn", "ternary", "ttq", "binary", "dorefa", "xnor"]


@pytest.mark.parametrize("text", ZOO)
@pytest.mark.parametrize("name", ["cifar10_resnet20_jpegft", "mlperf_resnet8_cifar10"])
def test_networks_of_the_zoo(zoo, name, text):
    graph = load(zoo.model(name))
    ctx = Context()
    run_pipeline(graph, Pipeline.parse(f"exact,quantize-weights{{format={text}}}"), ctx)
    annotate(graph)
    feeds = zoo.calib(name, 4)
    tensors = {key: torch.from_numpy(array) for key, array in feeds.items()}
    network = Network(graph, float_graph=ctx.unquantized)
    assert find(graph).frozen == {}
    assert len(network._latents) > 5

    def same(graph):
        want = Session(to_proto(graph), optimise=False).run(feeds)
        with torch.no_grad():
            found = network(tensors)
        # Where inputs are signs, a sum next to zero has the other one when it is summed in another order.
        tolerance = 5e-3 if text == "xnor" else 1e-4
        for key, array in want.items():
            np.testing.assert_allclose(found[key].numpy(), array, rtol=0, atol=tolerance * np.abs(array).max())

    same(graph)
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    for _ in range(2):
        optimiser.zero_grad()
        sum(value.square().mean() for value in network(tensors).values()).backward()
        optimiser.step()
    network.eval()
    written = clone(graph)
    network.write(written)
    same(written)


def test_matrix_products_that_runtimes_decode_themselves():
    text = """<ir_version: 8, opset_import: ["": 21]>
    g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { y = Gemm<transB = 1>(x, w) }"""
    graph = from_proto(read_model(text))
    ctx = Context()
    run_pipeline(graph, [QuantizeWeights(format="int4", block=16, symmetric=False)], ctx)
    assert edit.op(graph.nodes[0]) == "DequantizeLinear"
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    network = Network(graph, float_graph=ctx.unquantized)
    (latent,) = network._latents.values()
    before = np.asarray(ctx.unquantized.nodes[0].inputs[1].values)
    near = np.isclose(latent.weight.detach().numpy(), before.T, rtol=1e-4)
    assert near.mean() > 0.95  # the graph has them transposed
    trained(network, x)
    written = clone(graph)
    network.write(written)
    with torch.no_grad():
        found = network({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(found, outputs(written, x), rtol=0, atol=1e-5 * np.abs(found).max())


UNKNOWN = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y, float[4,1] z)
<int8[4,4] codes, float[4,1] scale, float[4,1] other>
{
    c = Cast<to=1>(codes)
    %s
    y = MatMul(x, w)
    z = Identity(other)
}"""


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("a = Mul(c, scale) w = Relu(a)", "computed in a way that is not known"),
        ("a = Add(c, other) w = Mul(a, scale)", "computed in a way that is not known"),
        ("w = Mul(c, other)", "`other` is used elsewhere"),
        ("w = Add(c, c)", "computed in a way that is not known"),
    ],
)
def test_what_is_not_recognised_stays_and_says_why(lines, reason):
    graph = from_proto(read_model(UNKNOWN % lines))
    annotate(graph)
    found = find(graph)
    assert list(found.latents) == []
    assert reason in found.frozen["w"]
    x = np.eye(4, dtype=np.float32)
    with torch.no_grad():
        y = Network(graph)({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(y, outputs(graph, x), rtol=1e-5)
