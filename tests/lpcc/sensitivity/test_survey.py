"""Surveys: what is measured, how often, on which images, and in which number it is told."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.errors import BudgetError, DataError, UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes import PruneChannels, Quantize
from lpcc.pipeline import Changes, Context, Fidelity, Pass
from lpcc.quality import BUILTIN
from lpcc.runtime import Session
from lpcc.sensitivity import Bench, Removable, Unit, survey
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,10] y)
<float[8,3,3,3] w1, float[6,8,3,3] w2, float[8,6,3,3] w3, float[10,8] w4>
{
    [first] a = Conv<pads = [1,1,1,1]>(x, w1)
    b = Relu(a)
    [second] c = Conv<pads = [1,1,1,1]>(b, w2)
    d = Relu(c)
    [third] e = Conv<pads = [1,1,1,1]>(d, w3)
    f = Add(e, b)
    g1 = GlobalAveragePool(f)
    h = Flatten(g1)
    [classify] y = Gemm<transB = 1>(h, w4)
}
"""
ITEM = PruneChannels(shares=("*=0",), repair="local")


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def graph():
    return from_proto(read_model(NETWORK))


@pytest.fixture
def data():
    return Dataset.from_arrays({"x": images(24)})


@pytest.fixture
def judged(monkeypatch):
    """Trials that were run."""
    found = []
    values = Bench.values
    monkeypatch.setattr(Bench, "values", lambda self, trial: (found.append(trial), values(self, trial))[1])
    return found


def test_each_number_of_channels_is_measured_once(graph, data, judged):
    result = survey(graph, ITEM, ["0.05", "0.5", "0.52"], data, processes=1)
    assert [(unit.name, unit.layers, unit.channels) for unit in result.found.units] == [
        ("first", ("first", "third"), 8),
        ("second", ("second",), 6),
    ]
    assert result.found.stays == {"classify": "`y` is an output of the model"}
    assert [(trial.layer, trial.choice) for trial in judged] == [("", ""), ("first", "0.5"), ("second", "0.5")]
    told = {(entry.layer, entry.share): (entry.removed, entry.values["noise"]) for entry in result}
    assert len(told) == 9
    assert told["first", "0.05"] == (0, 0)
    assert told["first", "0.5"] == told["first", "0.52"] == told["third", "0.5"]
    assert [told[layer, "0.5"][0] for layer in ("first", "second", "third")] == [4, 3, 4]


def test_a_row_is_what_the_pass_does(graph, data):
    result = survey(graph, ITEM, ["0.5"], data, processes=1)
    (entry,) = [entry for entry in result if entry.layer == "second"]
    fitted, judged = images(24)[:18], images(24)[18:]
    before = Session(to_proto(graph)).run({"x": judged})["y"]
    context = Context(calibration=Dataset.from_arrays({"x": fitted}))
    PruneChannels(shares=("second=0.5",), repair="local").run(graph, context)
    after = Session(to_proto(graph)).run({"x": judged})["y"]
    agreement = 100 * float((before.argmax(1) == after.argmax(1)).mean())
    assert entry.values["agreement"] == pytest.approx(agreement)
    sqnr = 10 * math.log10(np.square(before).sum() / np.square(after - before).sum())
    assert entry.values["sqnr"] == pytest.approx(sqnr, abs=1e-3)
    assert result.metric is BUILTIN["agreement"]
    assert result.cost(entry) == pytest.approx(100 - agreement)


@pytest.mark.parametrize(
    ("there", "asked", "fitted", "judged"),
    [
        (24, None, 18, 6),
        (24, 8, 8, 8),
        (24, 15, 15, 9),
        (24, 20, 18, 6),
        (4, 2, 2, 2),
        (4, None, 3, 1),
        (3, None, 3, 3),
    ],
)
def test_some_images_are_fitted_to_and_others_judged(graph, monkeypatch, there, asked, fitted, judged):
    subjects = []
    module = sys.modules[survey.__module__]
    monkeypatch.setattr(module, "measure", lambda subject, trials, **_: subjects.append(subject))
    result = survey(graph, ITEM, ["0.5"], Dataset.from_arrays({"x": images(there)}), images=asked)
    (subject,) = subjects
    assert (len(subject.images["x"]), len(subject.apart[0]["x"]), result.images) == (fitted, judged, judged)
    assert np.array_equal(subject.images["x"], images(there)[:fitted])
    start = fitted if there > 3 else 0
    assert np.array_equal(subject.apart[0]["x"], images(there)[start : start + judged])


def test_large_images_are_fewer_unless_told(graph, data, monkeypatch):
    module = sys.modules[survey.__module__]
    monkeypatch.setattr(module, "_MOST_VALUES", 5 * 3 * 8 * 8)
    monkeypatch.setattr(module, "measure", lambda *_, **__: None)
    assert survey(graph, ITEM, ["0.5"], data).images == 5
    assert survey(graph, ITEM, ["0.5"], data, images=12).images == 12
    assert survey(graph, ITEM, ["0.5"], data, evaluation=data, images=20).images == 20


def test_others_judge(graph, data, tmp_path):
    labels = Session(to_proto(graph)).run({"x": images(20, 1)})["y"].argmax(1)
    labels[0] = (labels[0] + 1) % 10
    other = Dataset.from_arrays({"x": images(20, 1)}, labels)
    result = survey(graph, ITEM, ["0.25", "0.75"], data, evaluation=other, processes=1, cache=tmp_path)
    assert (result.metric.name, result.images, result.whole["top1"]) == ("top1", 20, 95)
    for entry in result:
        assert result.cost(entry) == 95 - entry.values["top1"]
    plain = Dataset.from_arrays({"x": images(20, 1)})
    unlabelled = survey(graph, ITEM, ["0.25", "0.75"], data, evaluation=plain, processes=1, cache=tmp_path)
    assert unlabelled.metric.name == "agreement"
    assert [e.values["noise"] for e in unlabelled] == [e.values["noise"] for e in result]
    assert len(list(tmp_path.iterdir())) == 2  # what is judged otherwise is kept by itself
    on_its_own = survey(graph, ITEM, ["0.25", "0.75"], data, processes=1)
    assert [e.values["noise"] for e in on_its_own] != [e.values["noise"] for e in result]


def test_processes_agree(graph, data):
    labels = np.arange(20) % 10
    other = Dataset.from_arrays({"x": images(20, 1)}, labels)
    seen = []
    shares = ["0.25", "0.5", "0.75"]
    two = survey(graph, ITEM, shares, data, evaluation=other, processes=2, progress=lambda *told: seen.append(told))
    assert list(two) == list(survey(graph, ITEM, shares, data, evaluation=other, processes=1))
    assert next(told for told in seen if told[0] == "measuring") == ("measuring", 0, 7)
    assert seen[-1] == ("measuring", 7, 7)


def test_csv_says_all_and_is_whole_or_absent(graph, data, tmp_path, monkeypatch):
    result = survey(graph, ITEM, ["0.5"], data, processes=1)
    result.write_csv(tmp_path / "t.csv")
    head, first, *_ = (tmp_path / "t.csv").read_text().splitlines()
    assert head == "layer,group,share,channels,removed,noise,sqnr,agreement"
    values = next(iter(result)).values
    assert first == f"first,first,0.5,8,4,{values['noise']!r},{values['sqnr']!r},{values['agreement']!r}"
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "old.csv").write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UsageError, match=r"old\.csv: cannot be written: No space left"):
        result.write_csv(tmp_path / "old.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv", "t.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"


def test_what_is_wrong_is_said_before_anything_is_measured(graph, data, judged):
    labelled = Dataset.from_arrays({"x": images(4)}, np.full(4, 10))
    with pytest.raises(DataError, match="label 10 is none of the model's 10 classes"):
        survey(graph, ITEM, ["0.5"], data, evaluation=labelled)
    with pytest.raises(UsageError, match="metric top1 needs labelled images"):
        survey(graph, ITEM, ["0.5"], data, metric=BUILTIN["top1"])
    with pytest.raises(UsageError, match=r"above 0 and below 1, not `1\.0`"):
        survey(graph, ITEM, ["0.5", "1.0"], data)
    with pytest.raises(UsageError, match="pass `quantize` does not remove channels layer by layer"):
        survey(graph, Quantize(), ["0.5"], data)
    with pytest.raises(BudgetError, match="no channel of the network can go"):
        survey(graph, PruneChannels(shares=("*=0",), skip=("first", "second", "third")), ["0.5"], data)
    assert judged == []


@dataclass(frozen=True)
class Break(Pass):
    """Leaves a network that nothing can run."""

    name: ClassVar[str] = "break"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    shares: tuple[str, ...] = ()

    def run(self, graph, ctx):
        if "first=0.5" in self.shares:
            graph.nodes[0].op = "NoSuchOperator"
        return Changes()

    def removable(self, graph, ctx, shares):
        return Removable((Unit("first", ("first",), 8, dict.fromkeys(shares, 4)),), {})


def test_any_pass_that_removes_shares_will_do(graph, data):
    (entry,) = survey(graph, Break(), ["0.5"], data, processes=1)
    assert math.isinf(entry.values["noise"])
    assert math.isnan(entry.values["agreement"])


@pytest.mark.slow
def test_resnet20_in_two_minutes(zoo):
    """21 layers at 5 shares on 500 images; the time is for two cores that do nothing else."""
    import time

    from lpcc.graph import load
    from lpcc.pipeline import Pipeline
    from lpcc.pipeline.runner import run_pipeline

    graph = load(zoo.model("cifar10_resnet20_jpegft"))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    data = Dataset.from_arrays(zoo.calib("cifar10_resnet20_jpegft", 1000))
    start = time.perf_counter()
    result = survey(graph, ITEM, ["0.1", "0.25", "0.5", "0.75", "0.9"], data)
    assert time.perf_counter() - start < 240
    assert result.images == 500
    convolutions = {node.name for node in graph.nodes if node.op == "Conv"}
    assert {entry.layer for entry in result} | result.found.stays.keys() >= convolutions
    noise = {}
    for entry in result:
        noise.setdefault(entry.unit.name, {})[entry.share] = entry.values["noise"]
    assert len(noise) == 12
    assert all(each["0.1"] < each["0.5"] < each["0.9"] for each in noise.values())
