"""Layers cut by weights, by what they read, and in order: what each keeps, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import clone, from_proto, to_proto
from lpcc.passes.factorize.fitting import Cut, Fit, in_order, one_by_one
from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.reconstruct import Reading, by_result, sums_of
from lpcc.pipeline import Context
from lpcc.runtime import Session, TensorSpec
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,4,12,12] x) => (float[N,6] y)
<float[16,4,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[16,16,3,3] w3, float[6,16] w4>
{
    [first] c = Conv<pads = [1,1,1,1]>(x, w1, b1)
    [on] r = Relu(c)
    [second] d = Conv<pads = [1,1,1,1]>(r, w2, b2)
    [too] s = Relu(d)
    [third] e = Conv<pads = [1,1,1,1]>(s, w3)
    [pool] p = GlobalAveragePool(e)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w4)
}
"""
CUTS = {"c": Cut("bmd", (4,)), "d": Cut("bmd", (6,)), "e": Cut("svd", (5,))}


@pytest.fixture
def graph():
    found = from_proto(read_model(NETWORK))
    annotate(found)
    for node in found.nodes:
        if node.op in ("Conv", "Gemm"):
            weight = node.inputs[1]
            weight.values = weight.values * np.float32(np.sqrt(2 / np.prod(weight.shape[1:])))
    return found


def images(count=192, seed=0):
    """Channels that depend on one another, with means."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(5).standard_normal((4, 4)) * np.geomspace(1, 0.05, 4)
    return (np.einsum("nchw,cd->ndhw", rng.standard_normal((count, 4, 12, 12)), mixed) + 0.5).astype(np.float32)


def dataset(graph):
    return Dataset.from_arrays({"x": images()}, inputs=TensorSpec.inputs_of(to_proto(graph)))


def sums(graph, names):
    nodes = by_result(graph)
    return sums_of(graph, [Reading.of(nodes[name]) for name in names], dataset(graph), Context())


def batches(graph):
    return list(dataset(graph).batches(8))


def written(graph, fits):
    found = clone(graph)
    fits.write(found)
    return found


def values(graph, name, seed=1):
    """What a tensor holds on images that nothing was fitted to."""
    model = to_proto(graph)
    if name != "y":
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    found = Session(model, optimise=False).run({"x": images(64, seed)}, [name])
    return found[name].astype(np.float64)


def lost(graph, other, name="y"):
    """Share of the energy of a tensor, around its mean, that is lost."""
    wanted = values(graph, name)
    axes = tuple(axis for axis in range(wanted.ndim) if axis != 1)
    return (
        np.square(values(other, name) - wanted).sum() / np.square(wanted - wanted.mean(axis=axes, keepdims=True)).sum()
    )


def test_by_weights_is_what_the_method_makes(graph):
    fits = one_by_one(graph, CUTS)
    nodes = by_result(graph)
    for name, cut in CUTS.items():
        expected = METHODS[cut.method](Form.of(nodes[name])).factors(cut.rank)
        assert np.array_equal(fits.factorised[name].factors.tensor, expected.tensor)
        assert fits.factorised[name].bias is None
    assert (fits.refitted, fits.declined) == ({}, {})


def test_what_is_read_counts(graph):
    """One layer alone: the best there is for what it reads, so also on other images of the kind."""
    for name in CUTS:
        only = {name: CUTS[name]}
        by = [written(graph, fits) for fits in (one_by_one(graph, only), one_by_one(graph, only, sums(graph, only)))]
        weights, rows = (lost(graph, other, name) for other in by)
        assert rows < weights


def test_means_are_kept(graph):
    """The bias takes what a layer makes on average of what it reads, borders aside."""
    only = {"d": CUTS["d"]}
    other = written(graph, one_by_one(graph, only, sums(graph, only)))
    wanted, found = (values(each, "d", seed=0).mean(axis=(0, 2, 3)) for each in (graph, other))
    scale = values(graph, "d").std()
    assert np.abs(found - wanted).max() < 0.02 * scale


def test_in_order_makes_up_for_what_was_lost_before(graph):
    apart = written(graph, one_by_one(graph, CUTS, sums(graph, CUTS)))
    walked = clone(graph)
    fits = in_order(graph, walked, CUTS, batches(graph), Context())
    assert set(fits.factorised) == set(CUTS)
    assert set(fits.refitted) == {"y"}
    assert lost(graph, walked) < lost(graph, apart)
    assert lost(graph, walked, "e") < lost(graph, apart, "e")


def test_what_was_walked_is_what_is_written(graph):
    walked = clone(graph)
    fits = in_order(graph, walked, CUTS, batches(graph), Context())
    again = written(graph, fits)
    assert np.allclose(values(again, "y"), values(walked, "y"), atol=1e-4)
    assert [node.name for node in again.nodes] == [node.name for node in walked.nodes]


def test_layers_that_nothing_changed_for_stay(graph):
    only = {"e": CUTS["e"]}
    fits = in_order(graph, clone(graph), only, batches(graph), Context())
    assert "d" not in fits.refitted
    other = written(graph, fits)
    assert np.array_equal(values(graph, "d"), values(other, "d"))


def test_the_graph_is_left_as_it_is(graph):
    before = to_proto(graph).SerializeToString(deterministic=True)
    one_by_one(graph, CUTS, sums(graph, CUTS))
    in_order(graph, clone(graph), CUTS, batches(graph), Context())
    assert to_proto(graph).SerializeToString(deterministic=True) == before


def test_factors_that_are_too_large(graph):
    """Where a weight does not fit into the type that the layer has, it stays, and the others are written."""
    fits = one_by_one(graph, CUTS)
    form, factors = fits.factorised["d"].form, fits.factorised["d"].factors
    first, *others = factors.stages
    large = replace(factors, stages=(replace(first, tensor=first.tensor * 1e45), *others))
    fits.factorised["d"] = Fit(form, large)
    other = written(graph, fits)
    assert fits.declined == {"d": "a factor is too large for float32"}
    assert [node.name for node in other.nodes if "/" in node.name] == ["first/bmd0", "third/svd0"]


def test_progress_is_told(graph):
    told = []
    in_order(graph, clone(graph), CUTS, batches(graph), Context(progress=lambda *step: told.append(step)))
    assert told[0] == ("factorise layers", 0, 4)
    assert told[-1] == ("factorise layers", 4, 4)
