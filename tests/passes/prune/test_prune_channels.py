"""`prune-channels` as a pipeline runs it: what goes, how much, how well it is mended, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.equality import interface_change
from lpcc.errors import LpccError, UsageError
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes import PruneChannels
from lpcc.passes.prune.criteria import CRITERIA
from lpcc.passes.prune.pruning import CriterionName
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.quality.noise import noise_of
from lpcc.runtime import Session, TensorSpec
from lpcc.search import Infeasible
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,6] y)
<float[16,3,3,3] w1, float[16] s1, float[16] b1, float[16] m1, float[16] v1var, float[16,16,3,3] w2, float[16] b2,
 float[24,16,3,3] w3, float[24] b3, float[24,1,3,3] w4, float[6,24] w5>
{
    [stem] c = Conv<pads = [1,1,1,1]>(x, w1)
    [norm] n = BatchNormalization(c, s1, b1, m1, v1var)
    [on] r = Relu(n)
    [inner] d = Conv<pads = [1,1,1,1]>(r, w2, b2)
    [sum] a = Add(d, r)
    [wide] e = Conv<pads = [1,1,1,1], strides = [2,2]>(a, w3, b3)
    [relu] f = Relu(e)
    [deep] h = Conv<group = 24, pads = [1,1,1,1]>(f, w4)
    [pool] p = GlobalAveragePool(h)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w5)
}
"""
PINNED = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,6,8,8] y) <float[6,3,1,1] w> { y = Conv(x, w) }
"""
GROWING = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,2,8,8] y)
<float[8,3,1,1] w1, float[9,8,1,1] w2, float[2,9,1,1] w3, int64[8] pads = {0,0,0,0,0,1,0,0}>
{
    [first] c = Conv(x, w1)
    [on] r = Relu(c)
    [more] p = Pad(r, pads)
    [second] d = Conv(r, w2)
    [sum] a = Add(d, p)
    [last] y = Conv(a, w3)
}
"""
"""A stream that grows by one channel, which is a group of its own: none of it can go."""
QUICK = {"criterion": "l1", "repair": "none", "processes": 1}


def images(count=64, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def context(model, target=None, count=64, **more):
    data = Dataset.from_arrays({"x": images(count)}, inputs=TensorSpec.inputs_of(model))
    return Context(target=None if target is None else Target.load(target), calibration=data, **more)


def network(**factors):
    """The network, its weights scaled so that activations stay about one, and times these factors."""
    proto = read_model(NETWORK)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            values = values / np.sqrt(np.prod(values.shape[1:]))
        values = (values * factors.get(tensor.name, 1)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto


@pytest.fixture(scope="module")
def model():
    return network()


def ran(model, *, target=None, ctx=None, **options):
    """The model after the pass, with what the pass says."""
    graph = from_proto(model)
    given = {"criterion": "l1", "repair": "none", "processes": 1, **options}
    (record,) = run_pipeline(graph, [PruneChannels(**given)], ctx or context(model, target))
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    return result, record.changes


def work(model):
    graph = from_proto(model)
    annotate(graph)
    return sum(macs(graph, bind(graph)).values())


def channels(model):
    """How many channels the layers make."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {node.name: sizes[node.input[1]][0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}


def noise(model, other):
    unseen = {"x": images(64, 9)}
    return noise_of([(Session(model).run(unseen), Session(other).run(unseen))])


WHOLE = {"stem": 16, "inner": 16, "wide": 24, "deep": 24, "head": 6}


@pytest.mark.parametrize(
    "text",
    [
        "prune-channels{macs=0.7}",
        "prune-channels{ratio=0.3 across=uniform multiple=8}",
        'prune-channels{shares="layer1*=0.5"}',
        'prune-channels{criterion=bn-scale repair=bias images=64 skip=c,d shares="a=0.5","b=0.25"}',
        "prune-channels{criterion=hessian repair=local cache=here processes=2 macs=0.5 across=global}",
        "exact,prune-channels{macs=0.5},distill{epochs=1},exact",
    ],
)
def test_text(text):
    assert str(Pipeline.parse(text)) == text


def test_the_names_of_criteria():
    assert set(get_args(CriterionName)) == {each.name for each in CRITERIA}


@pytest.mark.parametrize("text", ["", "{ratio=0.5 macs=0.5}", '{ratio=0.5 shares="a=0.5"}', "{criterion=l2}"])
def test_exactly_one_goal(text):
    with pytest.raises(UsageError, match="give one of `ratio`, `macs` and `shares`"):
        Pipeline.parse(f"prune-channels{text}")


@pytest.mark.parametrize("text", ["macs=1.5", "macs=-0.1", "ratio=2", "macs=0.5 criterion=best", "macs=0.5 images=1"])
def test_wrong_options(text):
    with pytest.raises(UsageError, match=r"column \d+: option `(macs|ratio|criterion|images)` takes"):
        Pipeline.parse(f"prune-channels{{{text}}}")


class TestHowMuch:
    def test_the_same_share_of_each_group(self, model):
        result, changes = ran(model, ratio=0.5, across="uniform")
        assert channels(result) == {"stem": 8, "inner": 8, "wide": 12, "deep": 12, "head": 6}
        assert [rewrite.node for rewrite in changes.rewrites] == ["stem", "inner", "wide", "deep"]

    @pytest.mark.parametrize("across", ["global", "sensitivity"])
    def test_a_share_of_all_channels(self, model, across):
        result, _ = ran(model, ratio=0.5, across=across)
        left = channels(result)
        assert left["stem"] + left["wide"] <= 20
        assert left["stem"] == left["inner"]
        assert left["wide"] == left["deep"]

    @pytest.mark.parametrize("across", ["uniform", "global", "sensitivity"])
    @pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
    def test_a_share_of_the_work(self, model, across, share):
        result, _ = ran(model, macs=share, across=across)
        assert 0.6 * share < work(result) / work(model) <= share

    def test_layer_by_layer(self, model):
        assert channels(ran(model, shares=("stem=0.25",))[0]) == {**WHOLE, "stem": 12, "inner": 12}
        result, _ = ran(model, shares=("*=0.25", "inner=0.5"))  # of two for one group the last counts
        assert channels(result) == {**WHOLE, "stem": 8, "inner": 8, "wide": 18, "deep": 18}
        assert channels(ran(model, shares=("deep=0.99",))[0]) == {**WHOLE, "wide": 1, "deep": 1}

    def test_a_layer_that_makes_several_groups(self):
        """A stream that grows: of each group that the layer makes that share goes, in all layers that make it."""
        model = read_model(
            GROWING.replace("9,8,1,1", "16,8,1,1").replace("2,9,1,1", "2,16,1,1").replace("0,1,0", "0,8,0")
        )
        assert channels(ran(model, shares=("second=0.5",))[0]) == {"first": 4, "second": 8, "last": 2}
        assert channels(ran(model, shares=("first=0.5",))[0]) == {"first": 4, "second": 12, "last": 2}
        assert channels(ran(model, shares=("second#2=0.5",))[0]) == {"first": 8, "second": 12, "last": 2}

    def test_nothing_to_take(self, model):
        for options in ({"macs": 1.0}, {"ratio": 0.0}, {"ratio": 0.01, "across": "uniform"}, {"shares": ("*=0",)}):
            result, changes = ran(model, **options)
            assert channels(result) == WHOLE
            assert not changes
            assert "takes no channel" in changes.refused[0].reason

    def test_numbers_that_kernels_like(self, model):
        """The target's own, unless another multiple is given."""
        for share in (0.9, 0.7, 0.4):
            for across in ("uniform", "global", "sensitivity"):
                left = channels(ran(model, target="x86-avx2", macs=share, across=across)[0])
                assert left["stem"] in (8, 16)
                assert left["wide"] in (8, 16, 24)
        assert channels(ran(model, target="x86-avx2", ratio=0.4, across="uniform", multiple=5)[0])["stem"] == 10
        assert channels(ran(model, target="x86-avx2", ratio=0.4, across="uniform", multiple=1)[0])["stem"] == 10
        assert channels(ran(model, target="x86-avx2", ratio=0.4, across="uniform")[0])["stem"] == 8
        assert channels(ran(model, target="x86-avx2", ratio=0.2, across="uniform")[0])["stem"] == 16

    def test_layers_to_be_left_alone(self, model):
        result, _ = ran(model, macs=0.8, skip=("inner",))
        assert channels(result)["stem"] == channels(result)["inner"] == 16
        assert work(result) <= 0.8 * work(model)
        assert channels(ran(model, ratio=0.5, across="uniform", skip=("w*",))[0])["wide"] == 24
        with pytest.raises(UsageError, match="skip names `inne`"):
            ran(model, macs=0.6, skip=("inne",))

    def test_sensitive_layers_lose_less(self):
        """Half of the channels of one layer are hardly read; those of another all count."""
        proto = network(w4=np.repeat([1, 1e-4], 12).reshape(24, 1, 1, 1))
        left = channels(ran(proto, macs=0.9, criterion="energy", repair="local")[0])
        assert left["wide"] <= 14
        assert left["stem"] >= 15

    def test_a_sketch_takes_as_much(self, model):
        for options in ({"macs": 0.5}, {"ratio": 0.5}, {"shares": ("stem=0.5",)}):
            graph = from_proto(model)
            annotate(graph)
            assert PruneChannels(**options).sketch(graph, Context(target=Target.load("x86-avx2")))
            annotate(graph)
            assert sum(macs(graph, bind(graph)).values()) <= 0.5 * work(model)


class TestImpossible:
    def test_all_channels(self, model):
        with pytest.raises(Infeasible, match=r"ratio=1 cannot be met: at most 0\.95 of the channels can go"):
            ran(model, ratio=1.0)
        with pytest.raises(Infeasible, match=r"at most 0\.8 of the channels can go"):
            ran(model, ratio=1.0, across="uniform", multiple=4)

    def test_less_work_than_one_channel_of_each_group_takes(self, model, monkeypatch):
        from lpcc.passes.prune import curves as room

        monkeypatch.setattr(room, "measure", lambda *_a, **_k: pytest.fail("measured before it was known"))
        for share in (0.0, 0.004):
            with pytest.raises(Infeasible, match=r"cannot be met: the least possible is macs=0\.0\d"):
                ran(model, macs=share)
        with pytest.raises(Infeasible, match=r"macs=0\.1 cannot be met without the layers in `skip`: the least"):
            ran(model, macs=0.1, skip=("stem",))

    def test_what_is_said_to_be_possible_is(self, model):
        for across in ("uniform", "global", "sensitivity"):
            with pytest.raises(Infeasible) as told:
                ran(model, macs=0.0, across=across)
            least = float(str(told.value).rpartition("macs=")[2])
            assert work(ran(model, macs=least, across=across)[0]) <= least * work(model)

    @pytest.mark.parametrize("criterion", ["l1", "reconstruction", "taylor"])
    def test_a_network_all_of_whose_channels_are_pinned(self, criterion):
        pinned = read_model(PINNED)
        for options in ({"macs": 0.5}, {"ratio": 0.5}):
            with pytest.raises(Infeasible, match=r"no channel of the network can go: .*output"):
                ran(pinned, criterion=criterion, **options)

    def test_all_layers_skipped(self, model):
        with pytest.raises(Infeasible, match="no channel of the network can go without the layers in `skip`"):
            ran(model, macs=0.5, skip=("*",))

    @pytest.mark.parametrize("text", ["stem=1", "stem=1.5", "stem=-0.1", "stem=half", "stem=nan", "stem", "=0.5x"])
    def test_a_share_that_is_none(self, model, text):
        with pytest.raises(UsageError, match=r"shares takes layer=share, a share from 0 to below 1, not"):
            ran(model, shares=(text,))

    def test_a_layer_that_there_is_not(self, model):
        with pytest.raises(UsageError, match=r"shares names `stemm`, .*the nearest are `stem`"):
            ran(model, shares=("stemm=0.5",))

    def test_a_layer_that_stays(self, model):
        with pytest.raises(UsageError, match="shares names `head`, which stays whole: `y` is an output of the model"):
            ran(model, shares=("head=0.5",))
        with pytest.raises(UsageError, match="shares names `stem`, which stays whole: it is in `skip`"):
            ran(model, shares=("stem=0.5",), skip=("stem",))
        assert channels(ran(model, shares=("*=0.5",), skip=("stem",))[0]) == {**WHOLE, "wide": 12, "deep": 12}

    def test_nothing_changes_when_it_raises(self, model):
        graph = from_proto(model)
        annotate(graph)
        before = to_proto(graph).SerializeToString(deterministic=True)
        for options in ({"macs": 0.0}, {"ratio": 1.0}, {"shares": ("stem=0.5", "none=0.5")}):
            with pytest.raises((Infeasible, UsageError)):
                PruneChannels(**QUICK, **options).run(graph, context(model))
            assert to_proto(graph).SerializeToString(deterministic=True) == before


class TestCriteria:
    def test_scores_are_those_of_the_images_that_a_repair_leaves(self, model):
        """One run that prunes a network twice, with other repairs, scores it twice."""
        own = context(model)
        ran(model, ctx=own, shares=("*=0.25",), criterion="energy")
        again, _ = ran(model, ctx=own, shares=("*=0.25",), criterion="energy", repair="layerwise")
        alone, _ = ran(model, shares=("*=0.25",), criterion="energy", repair="layerwise")
        assert again == alone

    @pytest.mark.parametrize("criterion", get_args(CriterionName))
    def test_each(self, model, criterion):
        result, _ = ran(model, shares=("stem=0.5",), criterion=criterion, repair="local", images=32)
        assert channels(result) == {**WHOLE, "stem": 8, "inner": 8}
        assert work(result) < work(model)

    @pytest.mark.skipif(find_spec("torch") is None, reason="the training extra is not installed")
    @pytest.mark.parametrize("criterion", ["taylor", "fisher", "hessian"])
    def test_gradients_with_torch_and_without(self, model, criterion, monkeypatch):
        from lpcc.passes.prune.criteria import gradients

        one, _ = ran(model, ratio=0.4, across="uniform", criterion=criterion, images=32)
        monkeypatch.setattr(gradients, "find_spec", lambda _: None)
        two, _ = ran(model, ratio=0.4, across="uniform", criterion=criterion, images=32)
        assert channels(one) == channels(two)
        assert noise(one, two) < 0.5 * noise(model, one)

    def test_a_layer_that_a_criterion_knows_nothing_of_is_left(self, model):
        result, changes = ran(model, ratio=0.5, across="uniform", criterion="bn-scale")
        assert channels(result)["wide"] == 24
        assert any("criterion says nothing" in refusal.reason for refusal in changes.refused)


class TestRepair:
    def test_each_more_mends_more(self, model):
        left = {}
        for repair in ("none", "bias", "local", "layerwise"):
            result, changes = ran(model, ratio=0.25, across="uniform", repair=repair, ctx=context(model, count=256))
            left[repair] = noise(model, result)
            told = {rewrite.what for rewrite in changes.rewrites}
            assert bool(told - {"made narrower"}) == (repair != "none")
        assert left["local"] < left["bias"] < left["none"]
        assert left["layerwise"] <= 1.05 * left["local"]

    def test_channels_that_nothing_reads_cost_nothing(self):
        proto = network(w4=np.tile([0, 1], 12).reshape(24, 1, 1, 1))
        for repair in ("none", "bias", "local", "layerwise"):
            result, _ = ran(proto, shares=("deep=0.5",), criterion="energy", repair=repair)
            assert channels(result)["deep"] == 12
            assert noise(proto, result) < 1e-8


MEASURED = {"macs": 0.6, "repair": "local"}


class TestMeasuring:
    def test_a_second_run_is_quick(self, model, tmp_path, monkeypatch):
        from importlib import import_module

        first, _ = ran(model, cache=str(tmp_path), **MEASURED)
        (file,) = tmp_path.iterdir()
        assert len(file.read_text().splitlines()) >= 14  # two groups at seven shares
        room = import_module("lpcc.sensitivity.measure")
        monkeypatch.setattr(room, "Bench", lambda *_: pytest.fail("measured again"))
        second, _ = ran(model, cache=str(tmp_path), **MEASURED)
        assert second == first

    def test_a_run_that_was_stopped_goes_on(self, model, tmp_path):
        done = []

        def stopping(what, step, _total):
            done.append(step) if what == "measure sensitivities" else None
            if step == 5 and what == "measure sensitivities":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ran(model, cache=str(tmp_path), ctx=context(model, progress=stopping), **MEASURED)
        assert done[-1] == 5
        steps = []

        def counting(what, step, _total):
            steps.append(step) if what == "measure sensitivities" else None

        result, _ = ran(model, cache=str(tmp_path), ctx=context(model, progress=counting), **MEASURED)
        assert steps[0] == 6
        assert result == ran(model, **MEASURED)[0]

    def test_the_guard_does_not_measure_again(self, model, monkeypatch):
        from lpcc.passes.prune import curves as room

        calls = []
        original = room.measure
        monkeypatch.setattr(room, "measure", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
        ctx = context(model)
        whole, _ = ran(model, ctx=ctx, **MEASURED)
        ctx.returned = frozenset({"wide"})
        back, changes = ran(model, ctx=ctx, skip=("wide",), **MEASURED)
        assert calls == [1]
        assert channels(back) == {**channels(whole), "wide": 24, "deep": 24}  # the others lose no more for it
        assert set(changes.damage) == {"stem"}

    def test_processes_do_not_change_the_result(self, model):
        one, _ = ran(model, processes=1, **MEASURED)
        two, _ = ran(model, processes=2, **MEASURED)
        assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)

    @pytest.mark.parametrize("criterion", ["reconstruction", "random", "particles"])
    def test_the_same_bytes_twice(self, model, criterion):
        options = {"ratio": 0.4, "across": "uniform", "criterion": criterion, "repair": "layerwise"}
        one, two = (ran(model, **options)[0].SerializeToString(deterministic=True) for _ in range(2))
        assert one == two

    def test_another_seed_is_another_chance(self, model):
        options = {"ratio": 0.4, "across": "uniform", "criterion": "random"}
        one, two = (ran(model, ctx=context(model, seed=seed), **options)[0] for seed in (0, 1))
        assert one != two

    def test_damage_is_told_group_by_group(self, model):
        _, measured = ran(model, **MEASURED)
        _, by_scores = ran(model, macs=0.6, across="global")
        for changes in (measured, by_scores):
            assert changes.damage
            assert set(changes.damage) <= {r.node for r in changes.rewrites if r.what == "made narrower"}
        assert all(0 < damage < 1 for damage in by_scores.damage.values())
        assert set(measured.damage) <= {"stem", "wide"}  # each group once


class TestZoo:
    def test_beside_uniform_pruning(self, zoo):
        """Training-free, a tenth of the work less: what the network says keeps more classes than equal shares by L1."""
        calib = zoo.calib("cifar10_resnet20_jpegft", 128)
        path = zoo.model("cifar10_resnet20_jpegft")
        inputs = TensorSpec.inputs_of(onnx.load(path))
        ctx = Context(calibration=Dataset.from_arrays(calib, inputs=inputs))
        unseen, _ = zoo.eval("cifar10_resnet20_jpegft", 200)
        (name,) = [spec.name for spec in Session(path).outputs]
        kept = {}
        for how in ("across=uniform repair=none criterion=l1", "across=global criterion=l2 repair=local"):
            graph = load(path)
            run_pipeline(graph, Pipeline.parse(f"exact,prune-channels{{macs=0.9 {how}}}"), ctx)
            found, expected = (Session(each).run(unseen)[name].argmax(1) for each in (to_proto(graph), path))
            kept[how] = float((found == expected).mean())
        uniform, better = kept.values()
        assert better >= uniform + 0.05


@pytest.mark.parametrize("across", ["uniform", "global", "sensitivity"])
def test_a_group_of_one_channel(across):
    found = read_model(GROWING)
    left, _ = ran(found, across=across, macs=0.8)
    assert work(left) <= 0.8 * work(found)
    assert channels(left)["second"] == channels(left)["first"] + 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_networks(data, random_network):
    """Whatever ties channels together: a valid network of the same interface that is no larger, or a clear answer."""
    found = random_network(data.draw)
    criterion = data.draw(st.sampled_from(("reconstruction", "l1", "energy", "geometric-median")))
    repair = data.draw(st.sampled_from(("none", "bias", "local", "layerwise")))
    x = np.random.default_rng(0).standard_normal((24, 3, 4, 4)).astype(np.float32)
    ctx = Context(calibration=Dataset.from_arrays({"x": x}, inputs=TensorSpec.inputs_of(found)))
    graph = from_proto(found)
    goal = data.draw(st.sampled_from(("ratio=0.4 across=uniform", "ratio=0.3 across=global", "ratio=0.3", "macs=0.9")))
    items = Pipeline.parse(f"exact,prune-channels{{{goal} criterion={criterion} repair={repair} processes=1}}")
    try:
        run_pipeline(graph, items, ctx)
    except LpccError as error:
        answers = {Infeasible: "cannot be met, or no channel can go", UsageError: "choose another criterion"}
        event(answers[type(error)])
        return
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    assert interface_change(found, result) is None
    assert work(result) <= work(found)
    outputs = Session(result).run({"x": x[:2]})
    expected = Session(found).run({"x": x[:2]})
    assert {name: array.shape for name, array in outputs.items()} == {n: array.shape for n, array in expected.items()}
