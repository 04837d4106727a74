"""Batch norms between two layers: where they go, and that they have the statistics of what they normalise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import clone, from_proto, to_proto
from lpcc.passes.factorize.fitting import Cut, one_by_one
from lpcc.passes.factorize.norms import norms
from lpcc.runtime import Session, TensorSpec
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,8,12,12] x) => (float[N,6] y)
<float[16,8,3,3] w1, float[16,8,4,4] w2, float[8,32] w3, float[32,6] w4>
{
    [first] c = Conv<pads = [1,1,1,1]>(x, w1)
    [on] r = Relu(c)
    [up] d = ConvTranspose<strides = [2,2]>(r, w2)
    [pool] p = GlobalAveragePool(d)
    [flat] q = Flatten(p)
    [product] e = MatMul(q, w3)
    [head] y = MatMul(e, w4)
}
"""
CUTS = {"c": Cut("bmd", (4,)), "d": Cut("bmd", (6,)), "e": Cut("svd", (3,))}


def network(text=NETWORK):
    found = from_proto(read_model(text))
    annotate(found)
    return found


def images(graph, dtype=np.float32, scale=1.0):
    values = scale * (np.random.default_rng(0).standard_normal((64, 8, 12, 12)) + 0.5)
    return Dataset.from_arrays({"x": values.astype(dtype)}, inputs=TensorSpec.inputs_of(to_proto(graph)))


def held(graph, names, data):
    """What tensors hold on the images."""
    model = to_proto(graph)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    runs = [Session(model, optimise=False).run(batch.feeds) for batch in data.batches(64)]
    return {name: np.concatenate([run[name] for run in runs]).astype(np.float64) for name in runs[0]}


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "MatMul"])
def test_training_starts_from_the_same_function(kind):
    """What stands behind the first of two layers, normalised by its own statistics, is what it was."""
    graph = network()
    data, fits = images(graph), one_by_one(graph, CUTS)
    normed = clone(graph)
    fits.write(normed, norms(graph, fits, data))
    (maker,) = (n for n in normed.nodes if "/" in n.name and n.op == kind and "norm" not in n.name)
    norm = maker.outputs[0].outputs[0]
    assert norm.op == "BatchNormalization"
    scale, shift, mean, variance = (tensor.values for tensor in norm.inputs[1:])
    values = held(normed, [maker.outputs[0].name], data)[maker.outputs[0].name]
    axes = (0, *range(2, values.ndim))
    assert np.allclose(mean, values.mean(axis=axes), atol=1e-4 * values.std())
    assert np.allclose(variance, values.var(axis=axes), rtol=1e-3)
    wide = [1, -1, *[1] * (values.ndim - 2)]
    centred = values - values.mean(axis=axes, keepdims=True)
    trained = centred / np.sqrt(values.var(axis=axes, keepdims=True) + 1e-5)
    trained = trained * scale.reshape(wide) + shift.reshape(wide)
    assert np.abs(trained - values).max() < 1e-3 * np.abs(values).max()


def test_the_network_computes_the_same():
    graph = network()
    fits, data = one_by_one(graph, CUTS), images(graph)
    found = []
    for own in ({}, norms(graph, fits, data), norms(graph, fits, None)):
        cut = clone(graph)
        fits.write(cut, own)
        assert sum(node.op == "BatchNormalization" for node in cut.nodes) == len(own)
        found.append(held(cut, [], data)["y"])
    assert len(own) == 3
    for other in found[1:]:
        assert np.abs(other - found[0]).max() < 1e-4 * np.abs(found[0]).max()


def test_three_layers_have_none():
    graph = network()
    assert norms(graph, one_by_one(graph, {"c": Cut("tucker2", (4, 4))}), images(graph)) == {}


def test_without_images_the_statistics_stand_for_nothing():
    graph = network()
    norm = norms(graph, one_by_one(graph, CUTS), None)["c"]
    assert (norm.mean == 0).all()
    assert np.allclose(norm.variance + norm.epsilon, 1)


def test_half_precision_does_not_overflow():
    """Squares of what images of 0 to 255 make are more than a float16 holds."""
    graph = network(NETWORK.replace("float[", "float16["))
    data, fits = images(graph, np.float16, 300), one_by_one(graph, {"c": CUTS["c"]})
    fits.write(graph, norms(graph, fits, data))
    assert any(node.op == "BatchNormalization" for node in graph.nodes)
    assert all(np.isfinite(t.values).all() for n in graph.nodes if "norm" in n.name for t in n.inputs[1:])
