from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes.repair.recalibrate_bn import RecalibrateBatchNorm
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, with_outputs
from lpcc.testing.golden import read_model

Array = np.ndarray[Any, Any]

_MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,5,8,8] y)
<float[4,3,3,3] w, float[4] g0, float[4] b0, float[4] m0, float[4] s0_var,
 float[5,4,1,1] v, float[5] g1, float[5] b1, float[5] m1, float[5] s1_var>
{
    a = Conv<pads=[1,1,1,1]>(x, w)
    n = BatchNormalization(a, g0, b0, m0, s0_var)
    r = Relu(n)
    c = Conv(r, v)
    y = BatchNormalization(c, g1, b1, m1, s1_var)
}"""


def _images(count: int = 64) -> dict[str, Array]:
    return {"x": np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32) * 2 + 1}


def _run(model: onnx.ModelProto, item: RecalibrateBatchNorm, count: int = 64) -> tuple[onnx.ModelProto, Any]:
    graph = from_proto(model)
    (record,) = run_pipeline(graph, [item], Context(calibration=Dataset.from_arrays(_images(count))))
    return to_proto(graph), record.changes


def test_every_norm_gives_what_it_was_trained_to_give():
    """Also the second, whose input depends on what became of the first."""
    model = read_model(_MODEL)
    after, changes = _run(model, RecalibrateBatchNorm(prior=0))
    assert changes.counts == {"statistics of batch norm re-estimated": 2}
    used = {"x": _images()["x"][:40]}  # the others judge
    found = Session(with_outputs(after, ["n", "y"]), optimise=False).run(used, ["n", "y"])
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, gamma, beta in (("n", "g0", "b0"), ("y", "g1", "b1")):
        np.testing.assert_allclose(found[name].mean(axis=(0, 2, 3)), weights[beta], atol=1e-3)
        np.testing.assert_allclose(found[name].std(axis=(0, 2, 3)), np.abs(weights[gamma]), rtol=1e-3)


def test_one_streaming_run_with_old_statistics_would_not_do():
    model = read_model(_MODEL)
    after, _ = _run(model, RecalibrateBatchNorm(prior=0))
    stale = Session(with_outputs(model, ["c"]), optimise=False).run(_images(), ["c"])["c"].mean(axis=(0, 2, 3))
    new = next(n for n in after.graph.node if n.output[0] == "y").input[3]
    mean = next(onnx.numpy_helper.to_array(t) for t in after.graph.initializer if t.name == new)
    assert np.abs(mean - stale).max() > 0.1


def test_few_images_move_little():
    model = read_model(_MODEL)
    old = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "m0")

    def moved(prior: float) -> float:
        after, _ = _run(model, RecalibrateBatchNorm(prior=prior), count=4)
        name = next(n for n in after.graph.node if n.output[0] == "n").input[3]
        return float(
            np.abs(next(onnx.numpy_helper.to_array(t) for t in after.graph.initializer if t.name == name) - old).max()
        )

    assert moved(0) > 2 * moved(12) > 0
    assert moved(12) == pytest.approx(moved(0) / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("BatchNormalization(a, g0, b0, m0, s0_var)", "BatchNormalization(a, g0, b0, q, s0_var)", "not constant"),
        ("v, float[5] g1, float[5] b1, float[5] m1", "v, float[5] g1, float[5] b1, float[5] m1, float[4] t", None),
        ("r, v)", "r, v)\n    d = BatchNormalization(r, g0, b0, m0, s0_var)", "shared"),
    ],
)
def test_refusals(old, new, reason):
    text = _MODEL.replace(old, new)
    if "q" in new:
        text = text.replace("{\n", "{\n    q = Identity(m0)\n", 1)
    _, changes = _run(read_model(text), RecalibrateBatchNorm())
    reasons = [refusal.reason for refusal in changes.refused]
    assert any(reason in r for r in reasons) if reason else not reasons


def test_statistics_that_do_not_suit_other_images_stay_what_they_were():
    """The network is made for images like those kept apart; those that are measured are louder."""
    model, _ = _run(read_model(_MODEL), RecalibrateBatchNorm(prior=0))
    images = _images(24)
    images["x"][:16] *= 3
    graph = from_proto(model)
    (record,) = run_pipeline(graph, [RecalibrateBatchNorm()], Context(calibration=Dataset.from_arrays(images)))
    assert not record.changes
    reasons = [refusal.reason for refusal in record.changes.refused]
    assert reasons == ["taken back: its input on images kept apart is no closer to the new statistics"] * 2
    assert [*to_proto(graph).graph.initializer] == [*model.graph.initializer]


@pytest.mark.parametrize("closer", [True, False])
def test_behind_rounding_the_outputs_decide(closer, monkeypatch):
    """The network before the rounding is known; where its outputs come no closer all is taken back."""
    model = read_model(_MODEL)
    graph = from_proto(_run(model, RecalibrateBatchNorm(prior=0))[0])
    ctx = Context(calibration=Dataset.from_arrays(_images()))
    run_pipeline(graph, Pipeline.parse("quantize-weights{format=ternary ends=true}"), ctx)
    float_model, rounded = to_proto(ctx.unquantized), to_proto(graph)
    if not closer:
        monkeypatch.setattr("lpcc.quality.noise.Noise.beats", lambda *_: False)
    (record,) = run_pipeline(graph, [RecalibrateBatchNorm(prior=0)], ctx)
    if not closer:
        assert not record.changes
        assert "come no closer to those of the float network" in record.changes.refused[-1].reason
        assert to_proto(graph).graph == rounded.graph
        return
    assert record.changes.counts == {"statistics of batch norm re-estimated": 2}
    unseen = {"x": np.random.default_rng(7).standard_normal((64, 3, 8, 8)).astype(np.float32) * 2 + 1}
    exact, before, after = (Session(m).run(unseen)["y"] for m in (float_model, rounded, to_proto(graph)))
    assert np.square(after - exact).sum() < 0.9 * np.square(before - exact).sum()


def test_folded_networks_have_nothing_to_re_estimate():
    graph = from_proto(read_model(_MODEL))
    context = Context(calibration=Dataset.from_arrays(_images()))
    records = run_pipeline(graph, [*Pipeline.parse("exact"), RecalibrateBatchNorm()], context)
    assert not records[-1].changes
    assert "no batch norms" in records[-1].changes.refused[0].reason


def test_repairs_a_real_network_whose_weights_were_rounded(zoo: Any):
    """Weights rounded to a few levels move the statistics; re-estimating wins a good part of the accuracy back."""
    name = "cifar10_resnet20_jpegft"
    graph = load(zoo.model(name))
    run_pipeline(graph, Pipeline.parse("freeze-inputs,lift-constants"), Context())
    float_model = to_proto(graph)
    for node in graph.nodes:
        if node.op == "Conv":
            w = node.inputs[1]
            step = np.abs(w.values).max(axis=(1, 2, 3), keepdims=True) / 3
            node.inputs[1] = type(w)(f"{w.name}_rounded", (np.rint(w.values / step) * step).astype(np.float32))
    images, labels = zoo.eval(name, 300)
    context = Context(calibration=Dataset.from_arrays(zoo.calib(name, 128), inputs=Session(float_model).inputs))

    def accuracy() -> float:
        scores = next(iter(Session(to_proto(graph)).run(images).values()))
        return float((scores.argmax(axis=1) == labels).mean())

    before = accuracy()
    (record,) = run_pipeline(graph, [RecalibrateBatchNorm()], context)
    assert len(record.changes.rewrites) == 19
    assert accuracy() > before + 0.05
