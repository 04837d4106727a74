"""ONNX's own backend tests through the operators: none is wrong, and what is refused says why."""

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

torch = pytest.importorskip("torch", reason="the training extra is not installed")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that prints the table."""
    path = Path(__file__).parents[4] / "benchmarks" / "training_operators.py"
    spec = importlib.util.spec_from_file_location("training_operators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_operators"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_none_is_wrong(script: ModuleType) -> None:
    outcomes = script.check_all(script.tests())
    counts = Counter(outcome.what for outcome, _ in outcomes)
    assert [outcome for outcome, _ in outcomes if outcome.what == "wrong"] == []
    assert counts["ok"] >= 1600
    assert counts["excused"] <= 14
    reasons = {outcome.why for outcome, _ in outcomes if outcome.what == "refused"}
    known = ("opset ", "torch does not compute with type", "the bits of integers", "quantises to float8")
    assert [why for why in reasons if not why.startswith(known)] == []
    assert "Conv " in script.table(outcomes)


def model(op: str, outputs: int = 1) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, 1, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", infos[:1], infos[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("op", "expected", "what"),
    [("Relu", [0, 2], "ok"), ("Neg", [0, 2], "wrong"), ("RegexFullMatch", [0, 2], "unknown")],
)
def test_the_script_sees_what_is_wrong(script: ModuleType, op: str, expected: list[float], what: str) -> None:
    from conformance import Test

    data: Any = [([np.array([-1, 2], np.float32)], [np.array(expected, np.float32)])]
    assert script.check(Test("t", "node", model(op), data, 1e-3, 1e-7)).what == what
