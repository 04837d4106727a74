from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx.parser
import pytest

import lpcc
from lpcc import Pipeline
from lpcc.testing import assert_equivalent, golden_cases

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def custom_pass(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("custom_pass")


@pytest.mark.parametrize("case", golden_cases(EXAMPLES / "golden" / "split-max-pool"), ids=lambda path: path.stem)
def test_golden(case: Path, golden: Callable[..., None], custom_pass: ModuleType) -> None:
    golden(case, passes=[custom_pass.SplitMaxPool])


def test_pays_and_stays_exact(custom_pass: ModuleType) -> None:
    model = onnx.parser.parse_model(custom_pass.PYRAMID)
    pipeline = Pipeline.parse("split-max-pool", [custom_pass.SplitMaxPool])
    result = lpcc.optimize(model, target="arm-cortex-m7", pipeline=pipeline)
    assert [node.op_type for node in result.model.graph.node].count("MaxPool") == 6
    assert result.report.verdict.speedup is not None
    assert result.report.verdict.speedup > 2
    assert_equivalent(model, result.model)


def test_guard_takes_back_what_does_not_pay(custom_pass: ModuleType) -> None:
    """onnxruntime's pooling on Arm goes over rows, then columns, by itself: two nodes only cost a second pass."""
    model = onnx.parser.parse_model(custom_pass.PYRAMID)
    pipeline = Pipeline.parse("split-max-pool", [custom_pass.SplitMaxPool])
    report = lpcc.optimize(model, target="arm-cortex-a", pipeline=pipeline).report
    assert report.verdict.kept == "original"
    assert "predicted 1.16x the time" in report.verdict.reasons[0]


def test_script(custom_pass: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    custom_pass.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("exact,split-max-pool{least=4}: ")
    assert second == "{'MaxPool split into height and width': 3}"


def test_name_clash(custom_pass: ModuleType) -> None:
    class Taken(custom_pass.SplitMaxPool):  # type: ignore[name-defined, misc]
        name = "fold-bn"

    with pytest.raises(lpcc.UsageError, match=r"Taken: the pass name `fold-bn` is taken by lpcc\.passes"):
        Pipeline.parse("exact", [Taken])


def test_name_of_a_pipeline(custom_pass: ModuleType) -> None:
    class Taken(custom_pass.SplitMaxPool):  # type: ignore[name-defined, misc]
        name = "exact"

    with pytest.raises(lpcc.UsageError, match="`exact` is that of a named pipeline"):
        Pipeline.parse("exact", [Taken])
