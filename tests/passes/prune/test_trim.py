"""`trim`: as fast as asked on the target, in numbers of channels that its kernels like, and no step for nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.analysis.macs import constant_bytes
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.cost.model import Totals
from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Trim
from lpcc.passes.prune import trim as room
from lpcc.passes.prune.portions import Curve
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec
from lpcc.search import Infeasible
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,24,24] x) => (float[N,6] y)
<float[32,3,3,3] w1, float[32,32,3,3] w2, float[32] b2, float[48,32,3,3] w3, float[48] b3, float[48,1,3,3] w4,
 float[6,48] w5>
{
    [stem] c = Conv<pads = [1,1,1,1]>(x, w1)
    [on] r = Relu(c)
    [inner] d = Conv<pads = [1,1,1,1]>(r, w2, b2)
    [sum] a = Add(d, r)
    [wide] e = Conv<pads = [1,1,1,1], strides = [2,2]>(a, w3, b3)
    [relu] f = Relu(e)
    [deep] h = Conv<group = 48, pads = [1,1,1,1]>(f, w4)
    [pool] p = GlobalAveragePool(h)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w5)
}
"""
PINNED = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,6,8,8] y) <float[6,3,1,1] w> { y = Conv(x, w) }
"""


@pytest.fixture(scope="module")
def model():
    proto = read_model(NETWORK)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            values = (values / np.sqrt(np.prod(values.shape[1:]))).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto


def context(model, target, **more):
    shape = (32, *TensorSpec.inputs_of(model)[0].shape[1:])
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    data = Dataset.from_arrays({"x": images}, inputs=TensorSpec.inputs_of(model))
    return Context(target=Target.load(target), calibration=data, **more)


def ran(model, target="x86-avx2", ctx=None, **options):
    graph = from_proto(model)
    given = {"criterion": "l1", "repair": "none", "processes": 1, **options}
    (record,) = run_pipeline(graph, [Trim(**given)], ctx or context(model, target))
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    return result, record.changes


def cost(model, target):
    graph = from_proto(model)
    annotate(graph)
    return CostModel(Target.load(target)).estimate(graph)


def channels(model):
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {node.name: sizes[node.input[1]][0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}


@pytest.mark.parametrize(
    "text", ["trim{speedup=2.0}", "trim{macs=0.5 size=0.5}", "exact,trim{criterion=energy skip=a energy=0.6}"]
)
def test_text(text):
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse("trim{speedup=2}") == Pipeline.parse("trim{speedup=2.0}")


def test_wrong_options():
    with pytest.raises(UsageError, match="give `speedup`, `macs`, `size` or `energy`"):
        Pipeline.parse("trim")
    for text in ("speedup=0.5", "macs=2", "size=-1", "energy=1.1"):
        with pytest.raises(UsageError, match=r"option `(speedup|macs|size|energy)` takes a number"):
            Pipeline.parse(f"trim{{{text}}}")
    data = context(read_model(NETWORK), "x86-avx2").calibration
    with pytest.raises(UsageError, match="needs a target device"):
        run_pipeline(from_proto(read_model(NETWORK)), [Trim(speedup=2.0)], Context(calibration=data))


@pytest.mark.parametrize("target", ["x86-avx2", "arm-cortex-a72", "arm-cortex-m7"])
@pytest.mark.parametrize("speedup", [1.2, 1.8])
def test_as_fast_as_asked_in_numbers_that_kernels_like(model, target, speedup):
    from lpcc.passes.prune.multiples import channel_multiple

    result, changes = ran(model, target, speedup=speedup)
    before, after = (cost(each, target).latency_ms for each in (model, result))
    assert before / speedup * 0.4 < after <= before / speedup * 1.0001  # a step here is half of a layer
    left = channels(result)
    multiple = channel_multiple(Target.load(target))
    assert all(count % min(multiple, 16) == 0 for name, count in left.items() if name != "head")
    assert changes.damage
    Session(result)


def test_other_goals_than_time(model):
    before = cost(model, "arm-cortex-m7")
    for goal, share in (("macs", 0.6), ("size", 0.6), ("energy", 0.7)):
        result, _ = ran(model, "arm-cortex-m7", **{goal: share})
        after = cost(result, "arm-cortex-m7")
        found = {
            "macs": after.macs / before.macs,
            "size": constant_bytes(from_proto(result)) / constant_bytes(from_proto(model)),
            "energy": after.energy_mj / before.energy_mj,
        }
        assert found[goal] <= share * 1.001
        assert after.latency_ms < before.latency_ms
    both, _ = ran(model, "arm-cortex-m7", macs=0.6, speedup=1.3)
    after = cost(both, "arm-cortex-m7")
    assert after.macs <= 0.6 * before.macs
    assert after.latency_ms <= before.latency_ms / 1.3 * 1.0001


def test_no_step_is_taken_that_saves_no_time(model, monkeypatch):
    """Each step that is taken makes the network faster, even where the goal is another."""
    times = []
    best = room._Steps.best

    def watched(self, counts, goals):
        found = best(self, counts, goals)
        times.append((self.price(counts).latency_ms, None if found is None else self.price(found).latency_ms))
        return found

    monkeypatch.setattr(room._Steps, "best", watched)
    for target in ("x86-avx2", "arm-cortex-a72"):
        ran(model, target, macs=0.4)
    assert len(times) >= 2
    assert all(after < before for before, after in times)


def test_nothing_to_do(model):
    result, changes = ran(model, speedup=1.0)
    assert channels(result) == channels(model)
    assert not changes
    assert "takes no channel" in changes.refused[0].reason


def test_what_is_cheap_to_lose_goes_first(model):
    """A layer some of whose channels are all zeros gives these; the one that most time is spent in stays whole."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    for tensor in proto.graph.initializer:
        if tensor.name in ("w3", "b3", "w4"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[::3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    left = channels(ran(proto, speedup=1.05)[0])
    assert (left["stem"], left["wide"]) == (32, 32)
    assert channels(ran(model, speedup=1.05)[0])["stem"] == 16


def test_skip_and_what_the_guard_took_back(model, monkeypatch):
    result, _ = ran(model, speedup=1.1, skip=("stem",))
    assert channels(result)["inner"] == 32
    ctx = context(model, "x86-avx2")
    whole, _ = ran(model, ctx=ctx, speedup=1.8)
    monkeypatch.setattr(room, "Prices", lambda *_: pytest.fail("priced again"))
    ctx.returned = frozenset({"inner"})
    back, _ = ran(model, ctx=ctx, speedup=1.8, skip=("inner",))
    assert channels(back) == {**channels(whole), "stem": 32, "inner": 32}


class TestImpossible:
    def test_the_best_is_said_before_anything_is_measured(self, model, monkeypatch):
        import lpcc.sensitivity

        monkeypatch.setattr(lpcc.sensitivity, "measure", lambda *_a, **_k: pytest.fail("measured"))
        with pytest.raises(
            Infeasible, match=r"trim: speedup=100 cannot be met: the best that channels allow is speedup=\d+\.?\d* \("
        ):
            ran(model, speedup=100.0)
        for goal in ("macs", "size", "energy"):
            with pytest.raises(Infeasible, match=rf"{goal}=0 cannot be met: .* is {goal}=0\.\d+$"):
                ran(model, **{goal: 0.0})

    @pytest.mark.parametrize("target", ["x86-avx2", "arm-cortex-a72", "arm-cortex-m7"])
    def test_what_is_said_to_be_possible_is(self, model, target):
        """Groups go as far as damage is measured, also where that is not done as the goal is out of reach."""
        with pytest.raises(Infeasible) as told:
            ran(model, target, speedup=1000.0)
        most = float(str(told.value).rpartition("is speedup=")[2].split()[0])
        result, _ = ran(model, target, speedup=most)
        before, after = (cost(each, target).latency_ms for each in (model, result))
        assert after <= before / most * 1.0001

    def test_two_goals_are_both_told(self, model):
        with pytest.raises(Infeasible, match=r"speedup=100 and macs=0\.5 cannot be met: .* speedup=.* with macs=0\."):
            ran(model, speedup=100.0, macs=0.5)

    def test_pinned_and_skipped(self, model):
        with pytest.raises(Infeasible, match="no channel of the network can go"):
            ran(read_model(PINNED), speedup=2.0, criterion="reconstruction")
        with pytest.raises(Infeasible, match="no channel of the network can go without the layers in `skip`"):
            ran(model, speedup=2.0, skip=("*",))


def test_a_sketch_is_as_fast_as_asked(model):
    graph = from_proto(model)
    annotate(graph)
    target = Target.load("x86-avx2")
    before = CostModel(target).estimate(graph).latency_ms
    assert Trim(speedup=1.5).sketch(graph, Context(target=target))
    annotate(graph)
    assert CostModel(target).estimate(graph).latency_ms <= before / 1.5 * 1.0001


def test_the_same_bytes_from_one_process_and_two(model, tmp_path):
    options = {"speedup": 1.5, "criterion": "reconstruction", "repair": "layerwise", "cache": str(tmp_path)}
    one, _ = ran(model, processes=1, **options)
    for file in tmp_path.iterdir():
        file.unlink()
    two, _ = ran(model, processes=2, **options)
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)
    assert len(list(tmp_path.iterdir())) == 1


class Alike:
    """A group of 32 channels, by its name."""

    def __init__(self, name):
        self.name = name

    def __len__(self):
        return 32


def steps(saved, damages):
    """Groups that can lose 16 channels, what each saves of 100 ms then, and what that damages."""
    choices = [
        room._Choice(Alike(name), Curve.through({0: 0.0, 16: damage}), (16, 32)) for name, damage in damages.items()
    ]

    def price(counts):
        return Totals(100 - sum(saved[name] for name, count in counts.items() if count), 1.0, 1, 1)

    return room._Steps(choices, price), room._Goals({"latency_ms": 70.0}, price({}))


def test_what_went_further_than_it_had_to_comes_back_most_damage_first():
    found, goals = steps({"a": 10, "b": 12, "c": 25}, {"a": 1.0, "b": 2.0, "c": 3.0})
    all_gone = {"a": 16, "b": 16, "c": 16}
    assert found.back(all_gone, goals) == {"a": 16, "b": 0, "c": 16}
    assert found.back({"a": 16, "b": 0, "c": 16}, goals) is None
    assert found.back({"a": 0, "b": 16, "c": 16}, goals) is None


@pytest.mark.parametrize("speedup", [1.2, 1.6, 2.0])
def test_no_channels_of_a_group_could_come_back(model, speedup, monkeypatch):
    kept = []
    walk = Trim._walk

    def watched(self, taken, goals, ctx):
        counts = walk(self, taken, goals, ctx)
        kept.append((taken, goals, counts))
        return counts

    monkeypatch.setattr(Trim, "_walk", watched)
    ran(model, speedup=speedup)
    taken, goals, counts = kept[-1]
    assert goals.excess(taken.price(counts)) == 0
    for choice in taken.choices:
        for fewer in (len(choice.group) - other for other in choice.kept):
            if fewer < counts.get(choice.group.name, 0):
                assert goals.excess(taken.price({**counts, choice.group.name: fewer})) > 0
