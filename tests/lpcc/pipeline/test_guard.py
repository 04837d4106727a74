"""The guard gives layers back to float, worst first, and takes everything back where that does not help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from lpcc import edit
from lpcc.data import Dataset
from lpcc.errors import PassError, UsageError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.pipeline import Changes, Context, Fidelity, Pass
from lpcc.pipeline.guard import Judgement, Returned, run_guarded, skipping
from lpcc.pipeline.judge import Budget, ImageJudge
from lpcc.pipeline.noise import LayerNoise, loudest, worst
from lpcc.testing.golden import read_model

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,6,6] x) => (float[N,5] y)
<float[8,3,3,3] w1, float[8,8,3,3] w2, float[8,8,3,3] w3, float[5,32] w4> {
  [conv1] a = Conv(x, w1)
  b = Relu(a)
  [conv2] c = Conv<pads=[1,1,1,1]>(b, w2)
  d = Relu(c)
  [conv3] e = Conv(d, w3)
  f = Relu(e)
  h = Flatten(f)
  [fc] y = Gemm<transB=1>(h, w4)
}
"""


@dataclass(frozen=True)
class Blur(Pass):
    """Adds noise to the weights of each layer: little in general, much in the layers named `bad`."""

    name: ClassVar[str] = "blur"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    bad: tuple[str, ...] = ()
    level: float = 0.003
    skip: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) in ("Conv", "Gemm") and node.name not in self.skip:
                    weights = edit.const(node.inputs[1])
                    assert weights is not None
                    level = 3.0 if node.name in self.bad else self.level
                    noise = ctx.rng(node.name).standard_normal(weights.shape) * weights.std() * level
                    e.replace_input(node, 1, e.constant("w", (weights + noise).astype(np.float32)))
                    changes.done(node, "blurred")
        return changes


@dataclass(frozen=True)
class Overwrite(Pass):
    """Doubles the weights of each layer, under the name that they have."""

    name: ClassVar[str] = "overwrite"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    skip: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        for node in graph.nodes:
            if edit.op(node) in ("Conv", "Gemm") and node.name not in self.skip:
                node.inputs[1].values = 2 * edit.const(node.inputs[1])
                changes.done(node, "doubled")
        return changes


@dataclass(frozen=True)
class Stubborn(Blur):
    """Has no way to leave a layer alone."""

    name: ClassVar[str] = "stubborn"

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        return Blur(self.bad, self.level).run(graph, ctx)


def images(count: int = 64) -> Dataset:
    x = np.random.default_rng(0).standard_normal((count, 3, 6, 6)).astype(np.float32)
    return Dataset.from_arrays({"x": x})


def labelled(model: onnx.ModelProto) -> Dataset:
    """Images with the labels that the model itself gives them."""
    from lpcc.runtime import Session

    x = np.random.default_rng(1).standard_normal((200, 3, 6, 6)).astype(np.float32)
    return Dataset.from_arrays({"x": x}, Session(model).run({"x": x})["y"].argmax(1).astype(np.int64))


def guarded(passes: Sequence[Pass], ctx: Context, budget: Budget) -> tuple[gs.Graph, object]:
    model = read_model(CLASSIFIER)
    exact = from_proto(model)
    judge = ImageJudge(model, ctx, budget)
    return exact, run_guarded(exact, passes, ctx, judge, judge.layer_noise)


UNLABELLED = Budget.of(None, None, 90.0, None, labelled=False)


def test_what_is_within_the_budget_is_kept_at_once() -> None:
    _, outcome = guarded([Blur()], Context(calibration=images()), UNLABELLED)
    assert outcome.kept
    assert outcome.returned == ()
    assert outcome.judgement.agreement >= 90


@pytest.mark.parametrize("bad", ["conv1", "conv2", "conv3", "fc"])
def test_the_layer_that_does_the_damage_goes_back_first(bad: str) -> None:
    exact, outcome = guarded([Blur(bad=(bad,))], Context(calibration=images()), UNLABELLED)
    assert outcome.kept
    assert [r.layer for r in outcome.returned] == [bad]
    assert outcome.returned[0].sqnr_db < 10
    assert outcome.records[0].item == Blur(bad=(bad,), skip=(bad,))
    assert [n.name for n in outcome.graph.nodes if n.name == bad]
    assert outcome.graph is not exact


def test_two_bad_layers_both_go_back() -> None:
    _, outcome = guarded([Blur(bad=("conv1", "conv3"))], Context(calibration=images()), UNLABELLED)
    assert outcome.kept
    assert {r.layer for r in outcome.returned} == {"conv1", "conv3"}


def test_labels_decide_where_there_are_some() -> None:
    model = read_model(CLASSIFIER)
    ctx = Context(evaluation=labelled(model))
    _, outcome = guarded([Blur(bad=("conv2",))], ctx, Budget.of(None, 5.0, None, None, labelled=True))
    assert outcome.kept
    assert [r.layer for r in outcome.returned] == ["conv2"]
    assert outcome.judgement.metric == "top1"
    assert outcome.judgement.before == 100.0
    assert outcome.judgement.drop is not None
    assert outcome.judgement.drop <= 5.0


def test_passes_that_cannot_skip_are_taken_back_whole() -> None:
    exact, outcome = guarded([Stubborn(bad=("conv1",))], Context(calibration=images()), UNLABELLED)
    # a pass with a `skip` that does nothing: all layers are tried, none helps, the exact graph is the result
    assert not outcome.kept
    assert outcome.graph is exact
    assert outcome.judgement.problem is not None
    assert "agree with the original, the floor is 90 %" in outcome.judgement.problem


def test_a_budget_that_only_the_exact_graph_keeps_is_not_met() -> None:
    everything = Budget.of(None, None, None, 110.0, labelled=False)  # dB
    exact, outcome = guarded([Blur()], Context(calibration=images()), everything)
    assert not outcome.kept
    assert outcome.graph is exact
    assert {r.layer for r in outcome.returned} == {"conv1", "conv2", "conv3", "fc"}
    assert outcome.judgement.problem is not None
    assert "the floor is 110 dB" in outcome.judgement.problem


def test_the_exact_graph_is_never_touched() -> None:
    model = read_model(CLASSIFIER)
    exact, _ = guarded([Blur(bad=("conv1",))], Context(calibration=images()), UNLABELLED)
    assert to_proto(exact) == to_proto(from_proto(model))


def test_skipping_adds_to_what_a_pass_skips() -> None:
    assert skipping([Blur(skip=("a",))], ["b"]) == [Blur(skip=("a", "b"))]
    assert skipping([Blur()], []) == [Blur()]


def test_ranking_does_not_blame_layers_that_hand_on_the_noise_of_others() -> None:
    """Later layers have an SQNR as low as the bad one's, or lower."""
    model = read_model(CLASSIFIER)
    ctx = Context(calibration=images())
    judge = ImageJudge(model, ctx, UNLABELLED)
    exact = from_proto(model)
    seen: list[list[str]] = []

    def verdict(candidate: onnx.ModelProto) -> Judgement:
        judgement = judge(candidate)
        seen.append([str(judgement.problem)])
        return judgement

    outcome = run_guarded(exact, [Blur(bad=("conv1",), level=0.05)], ctx, verdict, judge.layer_noise)
    assert outcome.returned[:1] == (Returned("conv1", outcome.returned[0].sqnr_db),)


EARLY, LATE, QUIETER = LayerNoise("conv1", 35.0, 25.0), LayerNoise("fc", 11.4, 6.0), LayerNoise("conv3", 20.0, -3.0)


def test_noise_adds_up_as_a_share_of_the_signal() -> None:
    layers = [EARLY, QUIETER, LATE]
    assert worst(layers) == [EARLY, LATE, QUIETER]
    assert loudest(layers) == [LATE, EARLY, QUIETER]
    assert LATE.added == pytest.approx(10**-1.14 - 10**-1.74)
    assert QUIETER.added < 0 < EARLY.added
    lost = LayerNoise("lost", float("-inf"), float("inf"))
    assert loudest([*layers, lost])[0] == lost


@pytest.mark.parametrize("mends", ["fc", "conv1"])
def test_the_way_that_holds_is_taken_where_rankings_differ(mends: str) -> None:
    """`conv1` falls furthest, `fc` adds most; the judge says which of them it was."""
    exact = from_proto(read_model(CLASSIFIER))
    db = {"b": 35.0, "c": 35.0, "a": 35.0, "e": 34.0, "f": 34.0, "d": 34.0, "h": 30.0, "y": 11.0}

    def noise(_: onnx.ModelProto, __: onnx.ModelProto, names: Sequence[str]) -> dict[str, float]:
        return {name: db[name] for name in names}

    def judge(model: onnx.ModelProto) -> Judgement:
        (weights,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == of[mends])
        whole = bool(np.array_equal(weights, edit.const(layers[mends].inputs[1])))
        return Judgement("sqnr", 1, None, None, None, None, 20.0 if whole else 10.0, None if whole else "too loud")

    layers = {node.name: node for node in exact.nodes if node.name in ("conv1", "conv2", "conv3", "fc")}
    of = {name: node.inputs[1].name for name, node in layers.items()}
    outcome = run_guarded(exact, [Overwrite()], Context(), judge, noise)
    assert outcome.kept
    assert [r.layer for r in outcome.returned] == [mends]


@pytest.mark.parametrize(
    ("max_drop", "agreement", "message"),
    [
        (-1.0, None, "--max-drop takes"),
        (100.5, None, "between 0 and 100, not 100.5"),
        (float("nan"), None, "--max-drop takes"),
        (1.0, 101.0, "--min-agreement"),
    ],
)
def test_a_budget_out_of_range_is_refused(max_drop: float, agreement: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget.of(None, max_drop, agreement, None, labelled=True)


def test_a_drop_that_nothing_could_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="give labelled images with --eval"):
        Budget.of(None, 1.0, None, None, labelled=False)
    for metric in ("sqnr", "cosine", "agreement", "relative-error"):
        with pytest.raises(UsageError, match=f"metric {metric} compares with the original"):
            Budget.of(metric, 1.0, None, None, labelled=True)
    with pytest.raises(UsageError, match="--min-sqnr takes a finite"):
        Budget.of(None, None, None, float("inf"), labelled=False)
    assert Budget.of(None, None, None, None, labelled=True).max_drop == 1.0
    assert Budget.of("json:dumps", 250.0, None, None, labelled=True).max_drop == 250.0  # in its own unit


def test_outputs_without_classes_are_judged_by_their_noise() -> None:
    text = CLASSIFIER.replace("float[N,5] y", "float[N,8,2,2] f").split("h = Flatten")[0] + "}"
    text = text.replace(", float[5,32] w4", "")
    model = read_model(text)
    ctx = Context(calibration=images())
    judge = ImageJudge(model, ctx, Budget.of(None, None, None, 20.0, labelled=False))
    graph = from_proto(model)
    assert judge(to_proto(graph)).problem is None
    Blur(bad=("conv1",)).run(graph, ctx)
    found = judge(to_proto(graph))
    assert found.metric == "sqnr"
    assert found.problem is not None
    assert "the floor is 20 dB" in found.problem


def test_no_images_is_a_usage_error(tmp_path: Path) -> None:
    model = read_model(CLASSIFIER)
    with pytest.raises(UsageError, match="give --calib or --eval"):
        ImageJudge(model, Context(), UNLABELLED)(model)


def test_a_candidate_that_onnxruntime_refuses_is_a_bug_not_bad_input() -> None:
    model = read_model(CLASSIFIER)
    x = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    ctx = Context(calibration=Dataset.from_arrays({"x": x}))
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(PassError, match="after the approximate passes onnxruntime refuses"):
        ImageJudge(model, ctx, UNLABELLED)(broken)


@pytest.mark.parametrize("metric", ["sqnr", "cosine", "agreement", "relative-error"])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_cannot_fall_is_guarded_by_floors(metric: str, labelled: bool) -> None:
    budget = Budget.of(metric, None, None, None, labelled=labelled)
    assert budget.floors(classes=True) == (90.0, None)
    assert budget.floors(classes=False) == (None, 15.0 if labelled else 16.0)  # images seen before flatter


def test_outputs_beside_class_scores_have_a_floor_of_their_own() -> None:
    """A detector's scores may agree while its boxes are lost."""
    text = CLASSIFIER.replace("=> (float[N,5] y)", "=> (float[N,5] y, float[N,8,4,4] z)")
    text = text.replace("<float[8,3,3,3] w1", "<float[8,3,3,3] w0, float[8,3,3,3] w1")
    text = text.replace("[conv1]", "[boxes] z = Conv(x, w0)  [conv1]")
    model = read_model(text)
    ctx = Context(calibration=images())
    graph = from_proto(model)
    Blur(bad=("boxes",), skip=("conv1", "conv2", "conv3", "fc")).run(graph, ctx)
    found = ImageJudge(model, ctx, UNLABELLED)(to_proto(graph))
    assert found.agreement == 100.0
    asked = ImageJudge(model, ctx, Budget.of(None, None, None, None, labelled=False))(to_proto(graph))
    assert asked.problem is not None
    assert "an output keeps" in asked.problem


@dataclass(frozen=True)
class Rename(Pass):
    """Changes nothing that anyone could measure, and says so every time."""

    name: ClassVar[str] = "rename"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        changes.done(graph.nodes[0], "renamed")
        return changes


class Prepare(Rename):
    """The same, as a pass that prepares for rounding."""

    name: ClassVar[str] = "prepare"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE


@pytest.mark.parametrize("other", [Rename(), Prepare()])
def test_passes_around_the_rounding_are_no_reason_to_keep_what_left_nothing(other: Pass) -> None:
    everything = Blur(bad=("conv1", "conv2", "conv3", "fc"))
    budget = Budget.of(None, None, 100.0, 80.0, labelled=False)
    _, outcome = guarded([other, everything], Context(calibration=images()), budget)
    assert not outcome.kept


@dataclass(frozen=True)
class Rescale(Pass):
    """Multiplies what conv1 makes by 100 and the weights that read it by 0.01, then calls that the float graph."""

    name: ClassVar[str] = "rescale"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if node.name in ("conv1", "conv2"):
                    factor = np.float32(100 if node.name == "conv1" else 0.01)
                    e.replace_input(node, 1, e.constant("w", edit.const(node.inputs[1]) * factor))
                    changes.done(node, "rescaled")
        ctx.unquantized = clone(graph)
        return changes


def test_damage_is_told_from_another_scale() -> None:
    """Without that, conv1 with its output a hundred times as large would go back first."""
    _, outcome = guarded([Rescale(), Blur(bad=("fc",))], Context(calibration=images()), UNLABELLED)
    assert outcome.kept
    assert [r.layer for r in outcome.returned] == ["fc"]
