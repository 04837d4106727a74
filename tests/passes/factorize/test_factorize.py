"""`factorize`: ranks as asked for, goals met at their price, outputs kept, and what cannot be done said."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.analysis.macs import macs, weight_bytes
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.data import Dataset
from lpcc.equality import interface_change
from lpcc.errors import UsageError
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes import Factorize
from lpcc.passes.factorize.factors import relative_error
from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.reconstruct import by_result
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec
from lpcc.search import Infeasible
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,4,16,16] x) => (float[N,6] y)
<float[32,4,3,3] w1, float[32] b1, float[32,32,3,3] w2, float[32] b2, float[64,32,3,3] w3, float[64] b3,
 float[64,64,1,1] w4, float[64] b4, float[6,64] w5, float[6] b5>
{
    [stem] c = Conv<pads = [1,1,1,1]>(x, w1, b1)
    [on] r = Relu(c)
    [inner] d = Conv<pads = [1,1,1,1]>(r, w2, b2)
    [sum] a = Add(d, r)
    [wide] e = Conv<pads = [1,1,1,1], strides = [2,2]>(a, w3, b3)
    [relu] f = Relu(e)
    [point] h = Conv(f, w4, b4)
    [act] i = Relu(h)
    [pool] p = GlobalAveragePool(i)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w5, b5)
}
"""
TARGET = "x86-avx2"


def smooth(values, rng):
    """Weights of the shape of `values` whose singular values fall, as those of trained layers do."""
    rows = values.reshape(len(values), -1)
    u, _, v = np.linalg.svd(rng.standard_normal(rows.shape), full_matrices=False)
    found = (u * 0.85 ** np.arange(u.shape[1])) @ v
    found *= np.sqrt(2 * len(rows) / np.square(found).sum())
    return found.reshape(values.shape).astype(np.float32)


def made(text, dtype=None):
    """A model with weights that have something to gain."""
    proto, rng = read_model(text), np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        values = smooth(values, rng) if values.ndim > 1 else 0.1 * values
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(dtype or np.float32), tensor.name))
    return proto


@pytest.fixture(scope="module")
def model():
    return made(NETWORK)


def images(count=64, seed=0):
    """Smooth pictures: neighbours and channels are alike, so that some directions carry most of the energy."""
    rng = np.random.default_rng(seed)
    noise = np.fft.rfft2(rng.standard_normal((count, 4, 16, 16)))
    y, x = np.fft.fftfreq(16)[:, None], np.fft.rfftfreq(16)
    smoothed = np.fft.irfft2(noise / (0.05 + np.hypot(y, x)), s=(16, 16))
    mixed = np.einsum("nchw,cd->ndhw", smoothed, np.eye(4) + 0.6)
    return (mixed / mixed.std()).astype(np.float32)


def context(model, pictures=None, **more):
    """With a target, and with `pictures` or the usual ones to calibrate on."""
    pictures = images() if pictures is None else pictures
    (spec,) = TensorSpec.inputs_of(model)
    data = Dataset.from_arrays({spec.name: pictures.astype(spec.dtype)}, inputs=[spec])
    return Context(target=Target.load(TARGET), calibration=data, **more)


def ran(model, ctx=None, **options):
    graph = from_proto(model)
    (record,) = run_pipeline(graph, [Factorize(**options)], ctx or context(model))
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    assert interface_change(model, result) is None
    return result, record.changes


def annotated(model):
    graph = from_proto(model)
    annotate(graph)
    return graph


def layers(changes):
    """Names of the layers that were factorised."""
    return {each.node for each in changes.rewrites if each.what.startswith("factorised by ")}


def reasons(changes):
    return {refusal.node: refusal.reason for refusal in changes.refused}


def left(model, result):
    """Shares of the multiply-accumulates, of the bytes of weights and of the predicted time that are left."""
    before, after = annotated(model), annotated(result)
    costs = [CostModel(Target.load(TARGET)).estimate(graph).latency_ms for graph in (before, after)]
    work = [sum(macs(graph, bind(graph)).values()) for graph in (before, after)]
    sizes = [weight_bytes(graph) for graph in (before, after)]
    return tuple(new / old for old, new in (work, sizes, costs))


def work(model):
    """Multiply-accumulates by the names of nodes."""
    graph = annotated(model)
    counts = macs(graph, bind(graph))
    return {node.name: counts.get(id(node), 0) for node in graph.nodes}


def outputs(model, feeds):
    return next(iter(Session(model, optimise=False).run(feeds).values())).astype(np.float64)


def noise(model, result, feeds=None):
    """Share of the energy of the outputs around their mean that is lost, on images that nothing was fitted to."""
    feeds = feeds or {"x": images(96, seed=7)}
    wanted, found = outputs(model, feeds), outputs(result, feeds)
    return np.square(found - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum()


def ranks(result):
    """Channels of what is before the last of the new layers, by the names of the layers."""
    graph = annotated(result)
    found = {}
    for node in graph.nodes:
        for method in METHODS:
            name, there, number = node.name.rpartition(f"/{method}")
            if there and number.isdecimal():
                found.setdefault(name, []).append(node.inputs[1].values.shape[0])
    return {name: tuple(own) for name, own in found.items()}


class TestGoals:
    @pytest.mark.parametrize("fit", ["outputs", "weights"])
    def test_macs(self, model, fit):
        result, changes = ran(model, macs=0.5, bn=False, fit=fit)
        assert 0.3 < left(model, result)[0] <= 0.5
        assert layers(changes) <= {"inner", "wide", "point", "stem"}
        assert fit == "weights" or noise(model, result) < 0.2

    def test_speedup(self, model):
        result, _ = ran(model, speedup=1.5, bn=False)
        assert left(model, result)[2] <= 1 / 1.5 * 1.02  # the sum of prices alone and the network as a whole

    def test_size(self, model):
        result, _ = ran(model, size=0.6, bn=False)
        assert left(model, result)[1] <= 0.6

    def test_error(self, model):
        found = {}
        for error in (0.02, 0.3):
            result, _ = ran(model, error=error, bn=False)
            found[error] = left(model, result)[2], noise(model, result)
        assert found[0.3][0] < found[0.02][0] < 1
        assert found[0.02][1] < found[0.3][1]
        assert found[0.02][1] < 0.1

    def test_together(self, model):
        result, _ = ran(model, macs=0.6, size=0.65, speedup=1.2, bn=False)
        work, size, time = left(model, result)
        assert (work <= 0.6, size <= 0.65, time <= 1 / 1.2 * 1.02) == (True, True, True)

    def test_max_drop(self, model):
        feeds = {"x": images(64)}
        strict, loose = (ran(model, max_drop=drop, bn=False)[0] for drop in (0.0, 20.0))
        assert left(model, loose)[2] <= left(model, strict)[2] < 1
        apart = {"x": feeds["x"][-12:]}
        wanted, found = (outputs(each, apart).argmax(axis=1) for each in (model, strict))
        assert (wanted == found).all()

    @pytest.mark.parametrize("options", [{"macs": 0.01}, {"speedup": 90.0}, {"size": 0.01}])
    def test_what_cannot_be_met_is_said(self, model, options):
        (name,) = options
        with pytest.raises(Infeasible, match=rf"^factorize: {name}=.* cannot be met: the best .* is {name}=") as told:
            ran(model, **options)
        assert "\n" not in str(told.value)

    def test_together_they_may_be_too_much(self, model):
        with pytest.raises(Infeasible, match=r"macs=0.3 cannot be met within error=0.0001"):
            ran(model, macs=0.3, error=0.0001)

    def test_ranks_suit_the_kernels(self, model):
        for options in ({"macs": 0.5}, {"ratio": 0.5}, {"energy": 0.8}):
            found = [rank[0] for rank in ranks(ran(model, **options, multiple=16, skip=("stem",))[0]).values()]
            assert found
            assert [
                rank for rank in found if rank % 16 and rank > 16
            ] == []  # where there is little choice, parts of it


class TestEachLayer:
    def test_ratio(self, model):
        result, changes = ran(model, ratio=0.5, bn=False)
        before, after = work(model), work(result)
        for name in layers(changes):
            own = sum(count for layer, count in after.items() if layer == name or layer.startswith(f"{name}/"))
            assert 0 < own <= 0.5 * before[name]
        assert {"inner", "wide"} <= layers(changes)

    def test_energy(self, model):
        graph = annotated(model)
        result, changes = ran(model, energy=0.9, bn=False, fit="weights", multiple=1)
        found = ranks(result)
        assert {"inner", "wide"} <= layers(changes)
        for node in graph.nodes:
            if node.name in layers(changes):
                form, rank = Form.of(node), found[node.name]
                errors = []
                for method in ("bmd", "svd"):
                    own = METHODS[method](form)
                    if rank[0] <= own.full[0]:
                        errors.append(relative_error(form, own.factors(rank), None))
                assert min(errors) <= 0.1 + 1e-9

    def test_evbmf(self, model):
        """Of signal and noise the signal's rank is found."""
        rng = np.random.default_rng(3)
        noisy = onnx.ModelProto()
        noisy.CopyFrom(model)
        for tensor in noisy.graph.initializer:
            if tensor.name == "w2":
                a, b = rng.standard_normal((32 * 3, 6)), rng.standard_normal((6, 32 * 3))
                both = (a @ b + 0.1 * rng.standard_normal((96, 96))).reshape(32, 3, 32, 3)  # (C, h), (N, w)
                values = both.transpose(2, 0, 1, 3).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
        result, changes = ran(noisy, evbmf=True, method=("bmd",), fit="weights", multiple=1)
        assert "inner" in layers(changes)
        assert ranks(result)["inner"] == (6,)

    def test_given(self, model):
        result, changes = ran(model, ranks=("inner=8", "wid?=12"), bn=False)
        assert ranks(result) == {"inner": (8,), "wide": (12,)}
        assert layers(changes) == {"inner", "wide"}

    def test_given_for_tucker2(self, model):
        result, _ = ran(model, ranks=("inner=8x10",), method=("tucker2",))
        assert ranks(result) == {"inner": (8, 10)}

    def test_what_does_not_pay_stays(self, model):
        _, changes = ran(model, ratio=0.05)
        assert reasons(changes)["head"].startswith(("bmd: ", "svd: "))
        assert "head" not in layers(changes)


class TestFit:
    def test_images_tell_more_than_weights(self, model):
        by = {fit: noise(model, ran(model, ranks=("inner=8", "wide=8"), fit=fit)[0]) for fit in ("outputs", "weights")}
        assert by["outputs"] < 0.7 * by["weights"]

    def test_in_order_is_closer(self, model):
        options = {"ranks": ("stem=6", "inner=8", "wide=8", "point=12")}
        by = {repair: noise(model, ran(model, **options, repair=repair)[0]) for repair in ("layerwise", "none")}
        assert by["layerwise"] < by["none"]

    def test_layers_behind_are_refitted(self, model):
        _, changes = ran(model, ranks=("inner=6",))
        assert "wide" in {each.node for each in changes.rewrites if each.what == "refitted in order"}

    def test_full_rank_changes_nothing(self, model):
        result, _ = ran(model, ranks=("stem=12", "inner=96", "wide=96", "point=64", "head=6"))
        assert noise(model, result) < 1e-8

    @pytest.mark.parametrize("goal", [{"macs": 0.5}, {"max_drop": 10.0}])
    def test_sketch_needs_no_images(self, model, goal):
        graph = annotated(model)
        changes = Factorize(**goal).sketch(graph, Context(target=Target.load(TARGET)))
        assert layers(changes)
        onnx.checker.check_model(to_proto(graph), full_check=True)


class TestBatchNorm:
    def test_changes_nothing(self, model):
        for options in ({}, {"fit": "weights"}):
            with_norm, without = (ran(model, ranks=("*inner=8", "wide=8"), bn=bn, **options)[0] for bn in (True, False))
            norms = [node for node in with_norm.graph.node if node.op_type == "BatchNormalization"]
            assert len(norms) == 2
            assert not any(node.op_type == "BatchNormalization" for node in without.graph.node)
            feeds = {"x": images(16, seed=3)}
            wanted = outputs(without, feeds)
            assert np.abs(outputs(with_norm, feeds) - wanted).max() < 1e-4 * np.abs(wanted).max()

    def test_has_the_statistics_of_the_images(self, model):
        result, _ = ran(model, ranks=("inner=8",))
        onnx_graph = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(result))
        (norm,) = (node for node in result.graph.node if node.op_type == "BatchNormalization")
        probe = onnx_graph.extract_model(["x"], [norm.input[0]])
        values = outputs(probe, {"x": images(64)}).transpose(1, 0, 2, 3).reshape(8, -1)
        mean, variance = (
            onnx.numpy_helper.to_array(next(t for t in result.graph.initializer if t.name == name))
            for name in norm.input[3:]
        )
        assert np.allclose(mean, values.mean(axis=1), atol=0.1 * values.std(axis=1).max())
        assert np.allclose(variance, values.var(axis=1), rtol=0.3)

    def test_folds_away(self, model):
        with_norm, _ = ran(model, ranks=("inner=8", "wide=8"))
        graph = from_proto(with_norm)
        run_pipeline(graph, Pipeline.parse("fold-bn"), Context())
        folded = to_proto(graph)
        assert not any(node.op_type == "BatchNormalization" for node in folded.graph.node)
        assert noise(with_norm, folded) < 1e-9

    def test_a_product_of_more_axes_goes_without(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,5,64] x) => (float[N,5,64] y) <float[64,64] w> { [dense] y = MatMul(x, w) }"""
        product = made(text)
        result, changes = ran(
            product, context(product, np.random.default_rng(0).standard_normal((32, 5, 64))), ranks=("dense=8",)
        )
        assert layers(changes) == {"dense"}
        assert [node.op_type for node in result.graph.node] == ["MatMul", "MatMul"]


class TestLeftAlone:
    def test_skip(self, model):
        _, changes = ran(model, macs=0.7, skip=("inn*",))
        assert "inner" not in layers(changes) | set(reasons(changes))

    def test_what_is_skipped_is_not_fitted_either(self, model):
        result, changes = ran(model, ranks=("inner=4",), skip=("wide", "head"))
        assert not {"wide", "head"} & {each.node for each in changes.rewrites}
        assert "point" in {each.node for each in changes.rewrites}
        for name in ("w3", "b3", "w5"):
            assert np.array_equal(weights(result, name), weights(model, name))

    def test_nothing_is_made_up_for_layers_that_the_guard_took_back(self, model):
        whole, changes = ran(model, macs=0.5)
        assert "inner" in layers(changes)
        ctx = context(model, returned=frozenset({"inner"}))
        less, after = ran(model, ctx, macs=0.5, skip=("inner",))
        assert layers(after) == layers(changes) - {"inner"}
        assert ranks(less) == {name: rank for name, rank in ranks(whole).items() if name != "inner"}

    def test_what_was_chosen_is_kept_for_the_guard(self, model, monkeypatch):
        ctx = context(model)
        ran(model, ctx, macs=0.5)
        monkeypatch.setattr("lpcc.passes.factorize.factorize.Layers", None)  # must not be asked again
        ctx.returned = frozenset({"inner"})
        assert ran(model, ctx, macs=0.5, skip=("inner",))[1]

    def test_nothing_to_do(self):
        text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,4,16,16] x) => (float[N,4,16,16] y) { y = Relu(x) }'
        plain = read_model(text)
        for options in ({"error": 0.1}, {"energy": 0.9}, {"ratio": 0.5}, {"evbmf": True}, {"macs": 1.0}):
            result, changes = ran(plain, **options)
            assert not changes
            assert result.SerializeToString() == to_proto(from_proto(plain)).SerializeToString()

    def test_layers_too_small_to_pay(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,4,16,16] x) => (float[N,4,16,16] y) <float[4,4,1,1] w> { [small] y = Conv(x, w) }"""
        small = made(text)
        _, changes = ran(small, error=0.5)
        assert not changes
        assert "small" in reasons(changes)


class TestOddWeights:
    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda w: np.where(w == w.max(), np.nan, w), "its weights are not all finite"),
            (lambda w: np.where(w == w.max(), np.inf, w), "its weights are not all finite"),
            (lambda w: np.zeros_like(w), "its weights are all zero"),
        ],
        ids=["nan", "infinite", "zero"],
    )
    def test_are_left_alone(self, model, spoil, reason):
        for options in ({"error": 0.2}, {"ratio": 0.5}):
            spoiled = spoilt(model, spoil)
            result, changes = ran(spoiled, **options, fit="weights")
            assert reasons(changes)["inner"] == reason
            assert "inner" not in layers(changes)
            kept, was = (weights(each, "w2") for each in (result, spoiled))
            assert np.array_equal(kept, was, equal_nan=True)
        with pytest.raises(UsageError, match=f"`inner=4`: `inner` stays whole: {reason}"):
            ran(spoiled, ranks=("inner=4",), fit="weights")

    def test_some_filters_of_zeros(self, model):
        dead = spoilt(model, lambda w: np.where(np.arange(32)[:, None, None, None] < 20, 0, w))
        result, changes = ran(dead, ranks=("inner=36",))
        assert layers(changes) == {"inner"}
        assert noise(dead, result) < 1e-6  # twelve filters of three columns each

    def test_half_the_bits(self):
        half = made(NETWORK.replace("float[", "float16["), np.float16)
        result, changes = ran(half, ranks=("inner=16", "wide=16"))
        assert layers(changes) == {"inner", "wide"}
        assert {tensor.data_type for tensor in result.graph.initializer} == {onnx.TensorProto.FLOAT16}
        assert noise(half, result, {"x": images(32, seed=7).astype(np.float16)}) < 0.2

    def test_of_one_pixel_every_method_is_the_svd(self, model):
        results = [ran(model, ranks=("point=8",), method=(method,), bn=False)[0] for method in METHODS]
        feeds = {"x": images(8, seed=5)}
        for result in results[1:]:
            assert np.allclose(outputs(result, feeds), outputs(results[0], feeds), atol=1e-4)

    def test_cpd_of_one_pixel_in_every_rule(self, model):
        for options in ({"error": 0.3}, {"energy": 0.8}, {"ratio": 0.3}, {"macs": 0.99}):
            _, changes = ran(model, **options, method=("cpd",), skip=("stem", "inner", "wide"))
            assert "point" in layers(changes) | set(reasons(changes))


def spoilt(model, spoil):
    """The model with other weights in `inner`."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.name == "w2":
            values = spoil(onnx.numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    return found


def weights(model, name):
    return onnx.numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def test_same_bytes_twice(model):
    first, second = (ran(model, context(model), macs=0.5)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_results_have_names_of_their_own(model):
    graph = from_proto(ran(model, macs=0.5)[0])
    assert len(by_result(graph)) == len(graph.nodes)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


class TestZoo:
    def test_half_the_work(self, zoo):
        graph = load(zoo.model("fashion_mnist_vgg"))
        run_pipeline(graph, Pipeline.parse("exact"), Context())
        proto, (feeds, labels) = to_proto(graph), zoo.eval("fashion_mnist_vgg", 500)
        ((name, calib),) = zoo.calib("fashion_mnist_vgg", 160).items()
        kept = {}
        for fit in ("outputs", "weights"):
            result, _ = ran(proto, context(proto, calib), method=("bmd",), macs=0.4, fit=fit, bn=False)
            assert left(proto, result)[0] <= 0.4
            assert left(proto, result)[2] < 0.6
            wanted, found = (outputs(each, {name: feeds[name]}) for each in (proto, result))
            kept[fit] = (np.square(found - wanted).sum(), (found.argmax(axis=1) == labels).mean())
            original = (wanted.argmax(axis=1) == labels).mean()
        assert kept["outputs"][0] < kept["weights"][0]
        assert kept["outputs"][1] > original - 0.02

    def test_where_nothing_pays(self, zoo):
        """Squeezenet's layers of one pixel and few channels mostly stay; those that are cut are faster."""
        graph = load(zoo.model("squeezenet1_1_imagenet"))
        run_pipeline(graph, Pipeline.parse("exact"), Context())
        annotate(graph)
        target = Target.load(TARGET)
        before = CostModel(target).estimate(graph).latency_ms
        changes = Factorize(error=0.3, fit="weights").run(graph, Context(target=target))
        annotate(graph)
        assert CostModel(target).estimate(graph).latency_ms < before
        assert any("pays" in reason or "pay" in reason for reason in reasons(changes).values())
