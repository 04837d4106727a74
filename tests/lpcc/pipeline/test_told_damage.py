"""Passes that say themselves what a layer costs: the guard and the diagnosis go by that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Changes, Context, Fidelity, Pass
from lpcc.pipeline.diagnosis import diagnose
from lpcc.pipeline.guard import Judgement, Returned, run_guarded
from lpcc.pipeline.noise import CLEAN_DB, noise_of_records
from lpcc.pipeline.runner import Record, run_pipeline
from lpcc.quality import layer_sqnr
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,6,6] x) => (float[N,5,6,6] y) <float[8,3,1,1] w1, float[8,8,1,1] w2, float[5,8,1,1] w3> {
  [one] a = Conv(x, w1)
  [two] b = Conv(a, w2)
  [three] y = Conv(b, w3)
}
"""
NARROW = NETWORK.replace("float[8,3,1,1] w1, float[8,8,1,1] w2", "float[6,3,1,1] w1, float[8,6,1,1] w2")
DAMAGE = {"one": 0.5, "two": 0.001}


@dataclass(frozen=True)
class Narrow(Pass):
    """Says what each layer costs, and stains the layers that read."""

    name: ClassVar[str] = "narrow"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    skip: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        for layer, damage in DAMAGE.items():
            if layer not in self.skip:
                changes.done(layer, "made narrower")
                changes.damage[layer] = damage
        changes.done("three", "refitted")
        return changes


@dataclass(frozen=True)
class Train(Pass):
    """Touches all layers, and can leave none alone."""

    name: ClassVar[str] = "train"
    fidelity: ClassVar[Fidelity] = Fidelity.RETRAINED

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        for node in graph.nodes:
            changes.done(node, "trained")
        return changes


def images() -> Dataset:
    return Dataset.from_arrays({"x": np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)})


def unheard(*_: object) -> dict[str, float]:
    return pytest.fail("looked at tensors, though the pass says all")


@pytest.mark.parametrize("passes", [[Narrow()], [Narrow(), Train()]])
def test_the_guard_goes_by_what_a_pass_says(passes: list[Pass]) -> None:
    exact = from_proto(read_model(NETWORK))
    judged = []

    def judge(_model: object) -> Judgement:
        judged.append(1)
        return Judgement("top1", 4, 100.0, 0.0, 100.0, 0.0, 0.0, "too bad" if len(judged) == 1 else None)

    outcome = run_guarded(exact, passes, Context(), judge, unheard)
    assert outcome.kept
    assert outcome.returned == (Returned("one", pytest.approx(3.01, abs=0.01), alone=True),)
    assert str(outcome.returned[0]) == "`one` went back: by itself it leaves the outputs 3.0 dB"
    assert set(outcome.records[0].changes.damage) == {"two"}


def test_noise_of_all_there_is() -> None:
    graph = from_proto(read_model(NETWORK))
    records = run_pipeline(graph, [Narrow()], Context())
    told = noise_of_records(graph, to_proto(graph), to_proto(graph), records, unheard)
    assert [(one.layer, round(one.sqnr_db), one.alone) for one in told] == [("one", 3, True), ("two", 30, True)]
    assert all(one.damage_db == pytest.approx(CLEAN_DB - one.sqnr_db) for one in told)


@pytest.mark.parametrize(("damage", "sqnr"), [(0.0, 60.0), (1e-9, 60.0), (np.inf, -60.0), (1e9, -60.0), (1.0, 0.0)])
def test_extremes(damage: float, sqnr: float) -> None:
    graph = from_proto(read_model(NETWORK))
    record = Record(Narrow(), Changes(damage={"one": damage}), 0.0)
    (told,) = noise_of_records(graph, to_proto(graph), to_proto(graph), [record], unheard)
    assert told.sqnr_db == pytest.approx(sqnr)


def test_the_diagnosis_counts_channels() -> None:
    before, after = from_proto(read_model(NETWORK)), from_proto(read_model(NARROW))
    run_pipeline(before, [], Context())
    (record,) = run_pipeline(after, [Narrow()], Context())
    told = noise_of_records(before, to_proto(before), to_proto(after), [record], unheard)
    first, second = diagnose(before, after, told, images(), {"narrow", "trim"})
    assert (first.cause.kind, first.cause.detail) == ("channels", "2 of its 8 channels went")
    assert first.remedy == 'trim{skip="one"}'
    assert second.cause.detail == "channels of it went"
    assert diagnose(before, after, told, images(), {"prune-channels"})[0].remedy == 'prune-channels{skip="one"}'


def test_tensors_of_another_shape_are_not_compared() -> None:
    found = layer_sqnr(read_model(NETWORK), read_model(NARROW), images(), {"a": "a", "b": "b", "y": "y"}, batch=3)
    assert sorted(found) == ["b", "y"]
