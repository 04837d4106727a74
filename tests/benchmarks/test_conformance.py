"""ONNX's own backend tests: a sample of them each time, all of them among the slow tests."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lpcc.graph import clone, from_proto, to_proto


@pytest.fixture(scope="module")
def conformance() -> ModuleType:
    """The script that `make conformance` runs."""
    path = Path(__file__).parents[2] / "benchmarks" / "conformance.py"
    spec = importlib.util.spec_from_file_location("conformance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases(conformance: ModuleType) -> list[Any]:
    """All backend tests of the installed `onnx` package."""
    found: list[Any] = conformance.tests()
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_sample(conformance: ModuleType, cases: list[Any]) -> None:
    chosen = conformance.sample([case for case in cases if case.kind != "real"], 120)
    outcomes = [conformance.check(conformance.read(case), "exact") for case in chosen]
    bad = [outcome for outcome in outcomes if outcome.what in ("wrong", "crash", "refused")]
    assert bad == []
    assert sum(outcome.what == "ok" for outcome in outcomes) > 80


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all(conformance: ModuleType, cases: list[Any]) -> None:
    outcomes = list(conformance.run(cases, "exact"))
    counts = Counter(outcome.what for outcome in outcomes)
    assert len(outcomes) == len(cases)
    assert [outcome for outcome in outcomes if outcome.what in ("wrong", "crash")] == []
    assert counts["ok"] >= conformance.FLOOR


@pytest.mark.filterwarnings("ignore")
def test_all_survive_the_door(conformance: ModuleType, cases: list[Any]) -> None:
    for case in cases:
        if case.kind == "real":
            continue
        model = conformance.read(case).model
        graph = from_proto(model)
        if not model.functions:
            assert lines(to_proto(graph)) == lines(model), case.name
        assert to_proto(clone(graph)) == to_proto(graph), case.name


def lines(model: onnx.ModelProto) -> list[str]:
    """The lines of a model's text, sorted: equal for models that differ in the order of their parts alone."""
    return sorted(str(model).splitlines())


@pytest.mark.filterwarnings("ignore")
def test_wrong_results_crashes_and_dead_workers_are_seen(
    conformance: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script must be able to fail: a pipeline that breaks the model, raises, refuses or kills its process."""
    info = [helper.make_tensor_value_info(name, 1, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([-1, 2], np.float32)

    def case(name: str) -> Any:
        from onnx.backend.test.case.test_case import TestCase

        data = [([x], [x if name == "unfit" else np.maximum(x, 0)])]
        return TestCase(name, name, None, None, model, data, "node", 1e-3, 1e-7)

    def compiled(given: onnx.ModelProto, pipeline: str) -> onnx.ModelProto:
        import os

        from lpcc.errors import ModelError, PassError

        if pipeline == "wrong":
            given = onnx.ModelProto.FromString(given.SerializeToString())
            given.graph.node[0].op_type = "Neg"
        errors = {"crash": KeyError("k"), "bug": PassError("p"), "refused": ModelError("m")}
        if pipeline in errors:
            raise errors[pipeline]
        if pipeline == "dead":
            os._exit(11)
        return given

    monkeypatch.setattr(conformance, "compiled", compiled)
    expected = {"": "ok", "wrong": "wrong", "crash": "crash", "bug": "crash", "refused": "refused"}
    for pipeline, what in expected.items():
        assert conformance.check(conformance.read(case("t")), pipeline).what == what
    assert conformance.check(conformance.read(case("unfit")), "").what == "beyond onnxruntime"
    outcomes = list(conformance.run([case(f"t{index}") for index in range(4)], "dead"))
    assert sorted(outcome.test for outcome in outcomes) == ["t0", "t1", "t2", "t3"]
    assert {outcome.what for outcome in outcomes} == {"crash"}
    assert "crash" in conformance.table(outcomes)
