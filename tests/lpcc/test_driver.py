"""The compiler from end to end, on small models with passes that do as they are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import lpcc
from lpcc.data import Dataset
from lpcc.driver import plan
from lpcc.errors import DataError, ModelError, PassError, UsageError
from lpcc.graph import from_proto
from lpcc.pipeline.pays import Race
from lpcc.pipeline.syntax import Pipeline
from lpcc.pipeline.variant import Variant
from lpcc.testing.golden import read_model

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,3,16,16] image) => (float[batch,10] logits)
<float[16,3,3,3] w1, float[16,16,3,3] w2, float[16] scale, float[16] bias, float[16] mean, float[16] var,
 float[10,16] fc>
{
  [conv1] c1 = Conv<pads=[1,1,1,1]>(image, w1)
  [bn1] n1 = BatchNormalization(c1, scale, bias, mean, var)
  [relu1] r1 = Relu(n1)
  [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2)
  [add] s = Add(c2, r1)
  [relu2] r2 = Relu(s)
  [pool] p = GlobalAveragePool(r2)
  [flat] f = Flatten(p)
  [fc] logits = Gemm<transB=1>(f, fc)
}
"""


def images(count: int = 32) -> Dataset:
    x = np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)
    return Dataset.from_arrays({"image": x})


def test_exact_pipeline_gives_the_same_outputs_with_fewer_nodes() -> None:
    model = read_model(RESIDUAL)
    result = lpcc.optimize(model, target="arm-cortex-a", pipeline="exact")
    assert len(result.model.graph.node) == len(model.graph.node) - 1
    x = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
    before, after = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"image": x})[0]
        for m in (model, result.model)
    )
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    assert result.report.verdict.kept == "optimised"
    assert result.report.quality.data == "none"


def test_the_model_given_is_not_changed() -> None:
    model = read_model(RESIDUAL)
    copy = model.SerializeToString()
    lpcc.optimize(model, target="arm-cortex-a", pipeline="exact")
    assert model.SerializeToString() == copy


def test_a_graph_given_is_not_changed() -> None:
    graph = from_proto(read_model(RESIDUAL))
    lpcc.optimize(graph, target="arm-cortex-a", pipeline="exact")
    assert len(graph.nodes) == 9


@pytest.mark.parametrize("data", ["calib", "eval", "train"])
def test_costs_are_of_the_size_of_the_images(data: str) -> None:
    fixed = read_model(RESIDUAL.replace("16,16] image", "24,40] image"))
    of_any = read_model(RESIDUAL.replace("16,16] image", "height,width] image"))
    x = np.random.default_rng(0).standard_normal((8, 3, 24, 40)).astype(np.float32)
    given: dict[str, object] = {data: {"image": x} | ({"labels": np.arange(8)} if data == "eval" else {})}
    sides = [lpcc.optimize(m, target="arm-cortex-a", pipeline="exact", **given).report for m in (fixed, of_any)]  # type: ignore[arg-type]
    for ours, theirs in ((sides[0].before, sides[1].before), (sides[0].after, sides[1].after)):
        assert (ours.macs, ours.latency_ms, ours.peak_activation_bytes) == (
            theirs.macs,
            theirs.latency_ms,
            theirs.peak_activation_bytes,
        )
    assert not any("height" in note for note in sides[1].notes)


def test_quantised_within_the_budget_and_faster() -> None:
    result = lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a", calib=images())
    report = result.report
    assert report.verdict.met_budget
    assert report.quality.data == "real"
    assert report.quality.agreement is not None
    assert report.quality.agreement >= 90
    assert report.after.latency_ms is not None
    assert report.before.latency_ms is not None
    assert report.after.latency_ms <= report.before.latency_ms
    assert any(node.op_type == "QuantizeLinear" for node in result.model.graph.node)


@pytest.mark.parametrize(("count", "told"), [(1, "one image"), (8, "8 images"), (32, "")])
def test_few_images_that_passes_have_seen_tell_little(count: int, told: str) -> None:
    notes = lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a", calib=images(count), min_sqnr=0).report.notes
    found = [note for note in notes if note.startswith("quality is told on ")]
    assert found == (
        [f"quality is told on {told} that the passes worked with, too: more, or others with --eval, tell more"]
        if told
        else []
    )


def test_a_floor_that_cannot_be_met_gives_the_exact_model_and_says_so() -> None:
    result = lpcc.optimize(
        read_model(
            RESIDUAL.replace("=> (float[batch,10] logits)", "=> (float[batch,16,16,16] r2)").split("[pool]")[0] + "}"
        ),
        target="arm-cortex-a",
        calib=images(),
        min_sqnr=500.0,
    )
    verdict = result.report.verdict
    assert not verdict.met_budget
    assert verdict.kept == "partly"
    assert "the floor is 500 dB" in verdict.reasons[0]
    assert not any(node.op_type == "QuantizeLinear" for node in result.model.graph.node)


def test_without_images_batch_norm_statistics_stand_in_and_the_report_says_so() -> None:
    result = lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a")
    assert result.report.quality.data == "synthetic"
    assert any("not verified by real data" in note for note in result.report.notes)


def test_notes_on_the_original_do_not_read_as_notes_on_the_result() -> None:
    report = lpcc.optimize(read_model(RESIDUAL), target="ethos-u55-128").report
    on_processor = [note for note in report.notes if "run on the processor beside the NPU" in note]
    assert on_processor
    assert all(note.startswith("of the original: ") for note in on_processor if "in float" in note)


def test_without_images_and_batch_norms_the_model_stays_in_float() -> None:
    text = RESIDUAL.replace("[bn1] n1 = BatchNormalization(c1, scale, bias, mean, var)", "[bn1] n1 = Identity(c1)")
    text = text.replace("float[16] scale, float[16] bias, float[16] mean, float[16] var, ", "")
    result = lpcc.optimize(read_model(text), target="arm-cortex-a")
    assert not any(node.op_type == "QuantizeLinear" for node in result.model.graph.node)
    assert any("stays in float" in note for note in result.report.notes)


def test_two_runs_give_the_same_bytes() -> None:
    results = [lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a", calib=images(), seed=3) for _ in range(2)]
    assert results[0].model.SerializeToString(deterministic=True) == results[1].model.SerializeToString(
        deterministic=True
    )


def test_quality_is_that_of_the_result_not_of_what_was_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def race(before: Variant, after: Variant, feeds: object) -> Race:
        slow = any(node.op_type == "QuantizeLinear" for node in after.model.graph.node)
        return Race(1.0, 2.0 if slow else 1.0, 2.0 if slow else 1.0, measured=False)

    monkeypatch.setattr("lpcc.driver.race", race)
    report = lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a", calib=images()).report
    assert report.verdict.kept == "partly"
    assert "taken back" in report.verdict.reasons[-1]
    assert report.quality.agreement == 100
    assert report.quality.sqnr_db is None or report.quality.sqnr_db > 80


def test_a_metric_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_metric.py").write_text("def nan(outputs, labels):\n    return float('nan')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="metric odd_metric:nan of the original model is nan"):
        lpcc.optimize(
            read_model(RESIDUAL), target="arm-cortex-a", calib=images(), eval=images(), metric="odd_metric:nan"
        )


def test_a_scalar_input_is_no_reason_not_to_compare() -> None:
    text = RESIDUAL.replace("image) =>", "image, float gain) =>").replace("r1 = Relu(n1)", "r1 = Mul(n1, gain)")
    report = lpcc.optimize(read_model(text), target="arm-cortex-a", pipeline="exact").report
    assert not any("not compared" in note for note in report.notes)


def test_no_passes_is_not_the_pipeline_of_the_target() -> None:
    with pytest.raises(UsageError, match="expected the name of a pass"):
        lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a", pipeline="")


def test_the_report_is_json_and_comes_back(tmp_path: Path) -> None:
    report = lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-m7", calib=images(), output="out.onnx").report
    text = json.dumps(report.to_json(), allow_nan=False)
    data = json.loads(text)
    sizes = ["nodes", "parameters", "macs", "weight_bytes", "file_bytes"]
    figures = [*sizes, "latency_ms", "energy_mj", "peak_activation_bytes", "bytes_by_type", "bits_per_weight"]
    assert list(data["before"]) == figures
    assert data["output"] == "out.onnx"
    assert type(report).from_json(data).to_json() == report.to_json()
    assert {entry["name"] for entry in data["passes"]} >= {"fold-bn", "quantize"}


def test_host_is_measured() -> None:
    report = lpcc.optimize(read_model(RESIDUAL), target="host", pipeline="exact").report
    assert report.verdict.measured


def test_save_never_writes_over_the_input_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(read_model(RESIDUAL), path)
    before = path.read_bytes()
    result = lpcc.optimize(path, target="arm-cortex-a", pipeline="exact")
    with pytest.raises(UsageError, match="is the input model"):
        result.save(path)
    assert path.read_bytes() == before
    result.save(path, overwrite_input=True)
    assert len(onnx.load(path).graph.node) == 8


def test_unknown_custom_operators_survive_and_only_exact_passes_run() -> None:
    text = RESIDUAL.replace('["" : 17]', '["" : 17, "my.domain" : 1]').replace(
        "r1 = Relu(n1)", "r1 = my.domain.Odd(n1)"
    )
    result = lpcc.optimize(read_model(text), target="arm-cortex-a", calib=images())
    assert [n.op_type for n in result.model.graph.node if n.domain == "my.domain"] == ["Odd"]
    assert not any(node.op_type == "QuantizeLinear" for node in result.model.graph.node)
    assert any("`my.domain`" in note for note in result.report.notes)


def test_a_model_that_onnxruntime_refuses_is_refused() -> None:
    model = read_model(RESIDUAL)
    model.opset_import[0].version = 99
    with pytest.raises(ModelError):
        lpcc.optimize(model, target="arm-cortex-a", pipeline="exact")


def test_random_operators_are_said_to_be_uncompared() -> None:
    text = RESIDUAL.replace("r1 = Relu(n1)", "z = RandomNormalLike(n1)  r1 = Add(n1, z)")
    report = lpcc.optimize(read_model(text), target="arm-cortex-a", pipeline="exact").report
    assert any("random operators" in note for note in report.notes)


def test_a_pass_that_lies_about_being_exact_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from lpcc.passes import FoldBatchNorm

    real = FoldBatchNorm.rewrite

    def wrong(self, graph, ctx, changes):  # type: ignore[no-untyped-def]
        real(self, graph, ctx, changes)
        graph.nodes[1].op = "Abs"

    monkeypatch.setattr(FoldBatchNorm, "rewrite", wrong)
    with pytest.raises(PassError, match="exact passes changed output `logits`"):
        lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-a", pipeline=Pipeline((FoldBatchNorm(),)))


def test_a_plan_writes_and_judges_nothing() -> None:
    report = plan(read_model(RESIDUAL), target="arm-cortex-a", calib=images())
    assert report.quality.metric is None
    assert {entry.name for entry in report.passes} >= {"fold-bn", "quantize"}
    assert any("a plan" in note for note in report.notes)


def test_an_unknown_target_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="arm-cortex-a53"):
        lpcc.optimize(read_model(RESIDUAL), target="arm-cortex-53")


def test_stale_types_do_not_change_the_cost_of_the_original() -> None:
    text = RESIDUAL.replace("float[10,16] fc>", "float[10,16] fc, float[7,16,16,16] r1, float[1,16,9,9] c2>")
    stale, plain = (
        lpcc.optimize(read_model(each), target="arm-cortex-a", pipeline="exact").report for each in (text, RESIDUAL)
    )
    assert stale.before.macs == plain.before.macs
    assert stale.before.peak_activation_bytes == plain.before.peak_activation_bytes
    assert stale.after.peak_activation_bytes == plain.after.peak_activation_bytes


@pytest.mark.parametrize("pipeline", ["exact", None])
def test_a_model_whose_inputs_cannot_be_made_up_gets_the_exact_passes(pipeline: str | None) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (seq(float[2]) s, int64 i) => (float[2] y) { a = Identity(s)  b = SequenceAt(a, i)  y = Neg(b) }"
    )
    result = lpcc.optimize(read_model(text), target="arm-cortex-a", pipeline=pipeline)
    assert [node.op_type for node in result.model.graph.node] == ["SequenceAt", "Neg"]
    assert any("cannot be made up" in note for note in result.report.notes)


def test_a_plan_says_what_would_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpcc.driver.race", lambda *_: Race(1.0, 1.5, 1.5, measured=False))
    report = plan(read_model(RESIDUAL), target="arm-cortex-a", calib=images())
    assert report.verdict.kept == "partly"
    assert report.verdict.reasons == ("approximate passes taken back: predicted 1.50x the time (1.000 -> 1.500 ms)",)
    assert {layer.dtype_after for layer in report.layers} == {"float32"}


def test_a_metric_that_compares_with_the_original_is_guarded_by_the_floors() -> None:
    x = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    labelled = Dataset.from_arrays({"image": x}, labels=np.zeros(8, np.int64))
    report = lpcc.optimize(
        read_model(RESIDUAL), target="arm-cortex-a", calib=images(), eval=labelled, metric="sqnr", min_agreement=None
    ).report
    assert report.quality.max_drop is None
    assert report.quality.min_agreement == 90


def test_a_model_that_nothing_changed_is_not_taken_back_for_the_noise_of_a_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noisy = Race(1.0, 2.0, 2.0, measured=True)
    monkeypatch.setattr("lpcc.driver.race", lambda *_: noisy)
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y) { y = Sin(x) }'
    same = lpcc.optimize(read_model(text), target="host", pipeline="exact").report.verdict
    assert (same.kept, same.reasons) == ("optimised", ())
    changed = lpcc.optimize(read_model(RESIDUAL), target="host", pipeline="exact").report.verdict
    assert changed.kept == "original"
